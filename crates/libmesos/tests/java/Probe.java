import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.mesos.MesosNativeLibrary;
import org.apache.mesos.MesosSchedulerDriver;
import org.apache.mesos.Protos.*;
import org.apache.mesos.Scheduler;
import org.apache.mesos.SchedulerDriver;

/**
 * A scheduler that says each callback on standard output and does what it reads from standard input, one command a
 * line. A command's answer starts with "= ".
 */
public class Probe implements Scheduler {
    private final AtomicReference<Thread> callbackThread = new AtomicReference<>();
    /** A callback's name and what it is to do: "throw", or a command. */
    private volatile String[] plan = {"", ""};
    private volatile boolean quiet;
    private long offersSeen;
    private volatile long announceAt = Long.MAX_VALUE;
    private TaskStatus lastStatus;

    /** Arguments: master, implicit acknowledgements (true or false), framework id or "-". */
    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 0) {
            MesosNativeLibrary.load();
            MesosNativeLibrary.Version version = MesosNativeLibrary.version();
            say("version " + version.major + "." + version.minor + "." + version.patch);
            return;
        }
        Thread.currentThread().setContextClassLoader(new ClassLoader(Probe.class.getClassLoader()) {
            @Override
            public String toString() {
                return "the program's own";
            }
        });
        FrameworkInfo.Builder framework =
            FrameworkInfo.newBuilder().setUser("").setName("probe").setFailoverTimeout(30).setCheckpoint(true)
                .addRoles("dev").addCapabilities(FrameworkInfo.Capability.newBuilder()
                    .setType(FrameworkInfo.Capability.Type.MULTI_ROLE));
        if (!arguments[2].equals("-")) {
            framework.setId(FrameworkID.newBuilder().setValue(arguments[2]));
        }
        String uses = System.getenv("PROBE_USES_SHUFFLE_SERVICE");
        Probe probe = uses == null ? new Probe() : new LikeSparks(Boolean.parseBoolean(uses));
        MesosSchedulerDriver driver = arguments.length > 3
            ? new MesosSchedulerDriver(probe, framework.build(), arguments[0], Boolean.parseBoolean(arguments[1]),
                Credential.newBuilder().setPrincipal(arguments[3]).setSecret(arguments[4]).build())
            : new MesosSchedulerDriver(probe, framework.build(), arguments[0], Boolean.parseBoolean(arguments[1]));
        say("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("return")) {
                return;
            }
            try {
                say("= " + probe.command(driver, line));
            } catch (RuntimeException e) {
                say("= threw " + e.getClass().getName());
            }
        }
        System.exit(0);
    }

    /** Keeps `spark.shuffle.service.enabled` as Spark's backend does. */
    private static final class LikeSparks extends Probe {
        private final boolean enabled;

        LikeSparks(boolean enabled) {
            this.enabled = enabled;
        }

        private boolean shuffleServiceEnabled() {
            return enabled;
        }
    }

    private Object command(SchedulerDriver driver, String line) {
        String[] words = line.split(" ");
        Filters filters = Filters.newBuilder().setRefuseSeconds(7).build();
        switch (words[0]) {
            case "start": return driver.start();
            case "stop": return driver.stop(Boolean.parseBoolean(words[1]));
            case "abort": return driver.abort();
            case "join": return driver.join();
            case "joining":
                new Thread(() -> say("joined " + driver.join())).start();
                return "";
            case "launch": return driver.launchTasks(Collections.singletonList(offer(words[1])),
                Collections.singletonList(task(words[2])), filters);
            case "launch-one": return driver.launchTasks(offer(words[1]),
                Collections.singletonList(task(words[2])), filters);
            case "accept": return driver.acceptOffers(Arrays.asList(offer(words[1])),
                Arrays.asList(Offer.Operation.newBuilder().setType(Offer.Operation.Type.LAUNCH)
                    .setLaunch(Offer.Operation.Launch.newBuilder().addTaskInfos(task(words[2]))).build()), filters);
            case "decline": return driver.declineOffer(offer(words[1]), filters);
            case "decline-null": return driver.declineOffer(null, filters);
            case "revive": return driver.reviveOffers();
            case "suppress": return driver.suppressOffers();
            case "kill": return driver.killTask(TaskID.newBuilder().setValue(words[1]).build());
            case "acknowledge": return driver.acknowledgeStatusUpdate(lastStatus);
            case "message": return driver.sendFrameworkMessage(ExecutorID.newBuilder().setValue("E-1").build(),
                SlaveID.newBuilder().setValue("S-1").build(), words[1].getBytes(StandardCharsets.UTF_8));
            case "reconcile": return driver.reconcileTasks(Collections.singletonList(
                TaskStatus.newBuilder().setTaskId(TaskID.newBuilder().setValue(words[1]))
                    .setState(TaskState.TASK_RUNNING).build()));
            case "request": return driver.requestResources(Collections.singletonList(Request.newBuilder()
                .setSlaveId(SlaveID.newBuilder().setValue("S-1")).build()));
            case "plan":
                plan = line.split(" ", 3)[1].isEmpty() ? plan
                    : new String[] {words[1], line.split(" ", 3)[2]};
                return "";
            case "quiet":
                quiet = true;
                announceAt = Long.parseLong(words[1]);
                return "";
            case "memory":
                System.gc();
                return resident();
            default: throw new IllegalArgumentException(line);
        }
    }

    private static OfferID offer(String id) {
        return OfferID.newBuilder().setValue(id).build();
    }

    private static TaskInfo task(String id) {
        return TaskInfo.newBuilder().setName(id).setTaskId(TaskID.newBuilder().setValue(id))
            .setSlaveId(SlaveID.newBuilder().setValue("S-1"))
            .setCommand(CommandInfo.newBuilder().setValue("true")).build();
    }

    private static String resident() {
        try {
            List<String> lines = Files.readAllLines(Path.of("/proc/self/status"));
            return lines.stream().filter(l -> l.startsWith("VmRSS:")).findFirst().get().replaceAll("[^0-9]", "");
        } catch (java.io.IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private void heard(SchedulerDriver driver, String name, String rest) {
        Thread thread = Thread.currentThread();
        if (callbackThread.compareAndSet(null, thread)) {
            say("thread " + thread.getName() + " daemon=" + thread.isDaemon() + " loader="
                + thread.getContextClassLoader());
        } else if (callbackThread.get() != thread) {
            say("ANOTHER THREAD");
        }
        say((name + " " + rest).trim());
        String[] planned = plan;
        if (planned[0].equals(name)) {
            plan = new String[] {"", ""};
            if (planned[1].equals("throw")) {
                throw new IllegalStateException("the test asked for it");
            }
            say("in " + name + ": " + command(driver, planned[1]));
        }
    }

    @Override
    public void registered(SchedulerDriver driver, FrameworkID frameworkId, MasterInfo master) {
        heard(driver, "registered", frameworkId.getValue() + " " + master.getId());
    }

    @Override
    public void reregistered(SchedulerDriver driver, MasterInfo master) {
        heard(driver, "reregistered", master.getId());
    }

    @Override
    public void resourceOffers(SchedulerDriver driver, List<Offer> offers) {
        if (quiet) {
            for (Offer offer : offers) {
                driver.declineOffer(offer.getId());
            }
            offersSeen += offers.size();
            if (offersSeen >= announceAt) {
                announceAt = Long.MAX_VALUE;
                say("offers " + offersSeen);
            }
            return;
        }
        heard(driver, "resourceOffers",
            offers.stream().map(o -> o.getId().getValue() + "@" + o.getHostname()).collect(Collectors.joining(",")));
    }

    @Override
    public void offerRescinded(SchedulerDriver driver, OfferID offerId) {
        heard(driver, "offerRescinded", offerId.getValue());
    }

    @Override
    public void statusUpdate(SchedulerDriver driver, TaskStatus status) {
        lastStatus = status;
        heard(driver, "statusUpdate", status.getTaskId().getValue() + " " + status.getState() + " uuid="
            + status.hasUuid() + (status.hasReason() ? " " + status.getReason() : "")
            // Spark's backend looks it up and throws when it is not there.
            + (status.getSlaveId().getValue().isEmpty() ? " WITHOUT AN AGENT" : ""));
    }

    @Override
    public void frameworkMessage(SchedulerDriver driver, ExecutorID executorId, SlaveID slaveId, byte[] data) {
        heard(driver, "frameworkMessage",
            executorId.getValue() + " " + slaveId.getValue() + " " + new String(data, StandardCharsets.UTF_8));
    }

    @Override
    public void disconnected(SchedulerDriver driver) {
        heard(driver, "disconnected", "");
    }

    @Override
    public void slaveLost(SchedulerDriver driver, SlaveID slaveId) {
        heard(driver, "slaveLost", slaveId.getValue());
    }

    @Override
    public void executorLost(SchedulerDriver driver, ExecutorID executorId, SlaveID slaveId, int status) {
        heard(driver, "executorLost", executorId.getValue() + " " + slaveId.getValue() + " " + status);
    }

    @Override
    public void error(SchedulerDriver driver, String message) {
        heard(driver, "error", message);
    }
}
