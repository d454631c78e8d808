import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.apache.mesos.MesosSchedulerDriver;
import org.apache.mesos.Protos.*;
import org.apache.mesos.Scheduler;
import org.apache.mesos.SchedulerDriver;
import org.apache.spark.SparkConf;
import org.apache.spark.scheduler.cluster.mesos.MesosSchedulerBackendUtil$;
import scala.collection.JavaConverters;

/**
 * Launches a task for each set of settings, with the container and the secrets that Spark's own code makes of them, and
 * writes what became of it, one line a task: its number, its state, the message.
 * Arguments: master, file to write, and the sets: settings KEY=VALUE, parted by semicolons.
 */
public final class Containers implements Scheduler {
    private static final MesosSchedulerBackendUtil$ UTIL = MesosSchedulerBackendUtil$.MODULE$;
    private final Path out;
    private final List<SparkConf> sets = new ArrayList<>();
    private boolean launched;

    private Containers(String[] arguments) {
        out = Path.of(arguments[1]);
        for (int i = 2; i < arguments.length; i++) {
            SparkConf conf = new SparkConf(false);
            for (String setting : arguments[i].split(";")) {
                String[] parts = setting.split("=", 2);
                conf.set(parts[0], parts[1]);
            }
            sets.add(conf);
        }
    }

    public static void main(String[] arguments) {
        FrameworkInfo framework = FrameworkInfo.newBuilder().setUser("").setName("containers").build();
        MesosSchedulerDriver driver =
            new MesosSchedulerDriver(new Containers(arguments), framework, arguments[0]);
        System.exit(driver.run() == Status.DRIVER_STOPPED ? 0 : 1);
    }

    private TaskInfo task(int number, Offer offer) {
        SparkConf conf = sets.get(number);
        ContainerInfo.Builder container = UTIL.buildContainerInfo(conf);
        Environment.Builder environment = Environment.newBuilder();
        var settings = org.apache.spark.deploy.mesos.config.package$.MODULE$;
        for (var secrets : List.of(settings.executorSecretConfig(), settings.driverSecretConfig())) {
            JavaConverters.seqAsJavaList(UTIL.getSecretVolume(conf, secrets)).forEach(container::addVolumes);
            JavaConverters.seqAsJavaList(UTIL.getSecretEnvVar(conf, secrets)).forEach(environment::addVariables);
        }
        return TaskInfo.newBuilder().setName("" + number)
            .setTaskId(TaskID.newBuilder().setValue("" + number))
            .setSlaveId(offer.getSlaveId())
            .addResources(Resource.newBuilder().setName("cpus").setType(Value.Type.SCALAR)
                .setScalar(Value.Scalar.newBuilder().setValue(0.1)))
            .setCommand(CommandInfo.newBuilder().setValue("env | grep -q ^FROM_SPARK=secret$")
                .setEnvironment(environment))
            .setContainer(container).build();
    }

    @Override
    public void resourceOffers(SchedulerDriver driver, List<Offer> offers) {
        Offer offer = offers.get(0);
        List<TaskInfo> tasks = new ArrayList<>();
        for (int number = 0; number < sets.size() && !launched; number++) {
            tasks.add(task(number, offer));
        }
        launched = true;
        driver.launchTasks(Collections.singletonList(offer.getId()), tasks);
    }

    @Override
    public void statusUpdate(SchedulerDriver driver, TaskStatus status) {
        String text = status.getTaskId().getValue() + " " + status.getState() + " " + status.getMessage() + "\n";
        try {
            Files.writeString(out, text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (java.io.IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    @Override
    public void registered(SchedulerDriver driver, FrameworkID frameworkId, MasterInfo master) {}

    @Override
    public void reregistered(SchedulerDriver driver, MasterInfo master) {}

    @Override
    public void offerRescinded(SchedulerDriver driver, OfferID offerId) {}

    @Override
    public void frameworkMessage(SchedulerDriver driver, ExecutorID executor, SlaveID agent, byte[] data) {}

    @Override
    public void disconnected(SchedulerDriver driver) {}

    @Override
    public void slaveLost(SchedulerDriver driver, SlaveID agent) {}

    @Override
    public void executorLost(SchedulerDriver driver, ExecutorID executor, SlaveID agent, int status) {}

    @Override
    public void error(SchedulerDriver driver, String message) {
        System.err.println(message);
    }
}
