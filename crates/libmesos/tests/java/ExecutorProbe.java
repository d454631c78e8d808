import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.mesos.Executor;
import org.apache.mesos.ExecutorDriver;
import org.apache.mesos.MesosExecutorDriver;
import org.apache.mesos.Protos.*;

/** An executor that says each callback on standard output and does what it reads from standard input. */
public final class ExecutorProbe implements Executor {
    public static void main(String[] arguments) throws Exception {
        MesosExecutorDriver driver = new MesosExecutorDriver(new ExecutorProbe());
        say("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            say("= " + command(driver, line));
        }
        System.exit(0);
    }

    private static Object command(ExecutorDriver driver, String line) {
        String[] words = line.split(" ");
        switch (words[0]) {
            case "start": return driver.start();
            case "stop": return driver.stop();
            case "abort": return driver.abort();
            case "join": return driver.join();
            case "update": return driver.sendStatusUpdate(TaskStatus.newBuilder()
                .setTaskId(TaskID.newBuilder().setValue(words[1])).setState(TaskState.valueOf(words[2])).build());
            case "message": return driver.sendFrameworkMessage(words[1].getBytes(StandardCharsets.UTF_8));
            default: throw new IllegalArgumentException(line);
        }
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    @Override
    public void registered(ExecutorDriver driver, ExecutorInfo executor, FrameworkInfo framework, SlaveInfo slave) {
        say("registered " + executor.getExecutorId().getValue() + " " + framework.getName() + " "
            + slave.getHostname());
    }

    @Override
    public void reregistered(ExecutorDriver driver, SlaveInfo slave) {
        say("reregistered " + slave.getHostname());
    }

    @Override
    public void disconnected(ExecutorDriver driver) {
        say("disconnected");
    }

    @Override
    public void launchTask(ExecutorDriver driver, TaskInfo task) {
        say("launchTask " + task.getTaskId().getValue() + " " + task.getData().toStringUtf8());
    }

    @Override
    public void killTask(ExecutorDriver driver, TaskID taskId) {
        say("killTask " + taskId.getValue());
    }

    @Override
    public void frameworkMessage(ExecutorDriver driver, byte[] data) {
        say("frameworkMessage " + new String(data, StandardCharsets.UTF_8));
    }

    @Override
    public void shutdown(ExecutorDriver driver) {
        say("shutdown");
    }

    @Override
    public void error(ExecutorDriver driver, String message) {
        say("error " + message);
    }
}
