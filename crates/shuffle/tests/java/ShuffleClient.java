// Drives Spark's own client of the external shuffle service, as an executor and a reducer would.
//
// Arguments: HOST PORT APP SETTINGS, then steps, each led by its name:
//   register EXECUTOR SUBDIRS DIR,DIR        registers an executor
//   fetch EXECUTOR OUTDIR BLOCK,BLOCK        writes each block's bytes to OUTDIR/BLOCK
//   stream EXECUTOR OUTDIR BLOCK,BLOCK       the same, fetched to disk by the client
//   remove EXECUTOR BLOCK,BLOCK              prints "removed N"
//   dirs EXECUTOR                            prints "dirs DIR,DIR"
//   driver TIMEOUT_MS                        registers a Mesos driver and sends one heartbeat
// SETTINGS is k=v;k=v. The secret comes in the environment variable SECRET. A failed block prints
// "failed BLOCK EXCEPTION MESSAGE"; a failed step prints "error EXCEPTION MESSAGE".
import java.io.File;
import java.io.FileOutputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.*;
import java.util.concurrent.*;
import org.apache.spark.network.buffer.ManagedBuffer;
import org.apache.spark.network.sasl.SecretKeyHolder;
import org.apache.spark.network.shuffle.*;
import org.apache.spark.network.shuffle.mesos.MesosExternalBlockStoreClient;
import org.apache.spark.network.shuffle.protocol.ExecutorShuffleInfo;
import org.apache.spark.network.util.MapConfigProvider;
import org.apache.spark.network.util.TransportConf;

public class ShuffleClient {
  private static final String SORT = "org.apache.spark.shuffle.sort.SortShuffleManager";

  public static void main(String[] args) throws Exception {
    Map<String, String> settings = new HashMap<>();
    for (String pair : args[3].split(";")) {
      if (!pair.isEmpty()) settings.put(pair.split("=", 2)[0], pair.split("=", 2)[1]);
    }
    boolean auth = Boolean.parseBoolean(settings.getOrDefault("spark.authenticate", "false"));
    String user = settings.getOrDefault("user", args[2]);
    SecretKeyHolder secrets = new SecretKeyHolder() {
      public String getSaslUser(String app) { return user; }
      public String getSecretKey(String app) { return System.getenv("SECRET"); }
    };
    TransportConf conf = new TransportConf("shuffle", new MapConfigProvider(settings));
    try (MesosExternalBlockStoreClient client =
        new MesosExternalBlockStoreClient(conf, auth ? secrets : null, auth, 20000)) {
      client.init(args[2]);
      Deque<String> words = new ArrayDeque<>(Arrays.asList(args).subList(4, args.length));
      while (!words.isEmpty()) {
        try {
          step(client, args[0], Integer.parseInt(args[1]), words);
        } catch (Exception e) {
          say("error " + describe(e));
          return;
        }
      }
    }
  }

  private static void step(MesosExternalBlockStoreClient client, String host, int port, Deque<String> words)
      throws Exception {
    String step = words.remove();
    switch (step) {
      case "register": {
        String executor = words.remove();
        int subDirs = Integer.parseInt(words.remove());
        String[] dirs = words.remove().split(",");
        client.registerWithShuffleServer(host, port, executor, new ExecutorShuffleInfo(dirs, subDirs, SORT));
        say("registered " + executor);
        break;
      }
      case "fetch":
      case "stream": {
        String executor = words.remove();
        String out = words.remove();
        fetch(client, host, port, executor, new File(out), words.remove().split(","), step.equals("stream"));
        break;
      }
      case "remove": {
        String executor = words.remove();
        int removed = client.removeBlocks(host, port, executor, words.remove().split(",")).get();
        say("removed " + removed);
        break;
      }
      case "dirs": {
        String executor = words.remove();
        CompletableFuture<Map<String, String[]>> dirs = new CompletableFuture<>();
        client.getHostLocalDirs(host, port, new String[] {executor}, dirs);
        say("dirs " + String.join(",", dirs.get(30, TimeUnit.SECONDS).get(executor)));
        break;
      }
      case "driver":
        client.registerDriverWithShuffleService(host, port, Long.parseLong(words.remove()), 50);
        say("driver");
        break;
      default:
        throw new IllegalArgumentException(step);
    }
  }

  private static void fetch(ExternalBlockStoreClient client, String host, int port, String executor, File out,
      String[] blocks, boolean toDisk) throws Exception {
    TransportConf conf = new TransportConf("shuffle", new MapConfigProvider(new HashMap<>()));
    CountDownLatch left = new CountDownLatch(blocks.length);
    BlockFetchingListener listener = new BlockFetchingListener() {
      public void onBlockFetchSuccess(String block, ManagedBuffer data) {
        try (FileChannel file = new FileOutputStream(new File(out, block)).getChannel()) {
          ByteBuffer bytes = data.nioByteBuffer();
          while (bytes.hasRemaining()) file.write(bytes);
          say("fetched " + block);
        } catch (Exception e) {
          say("failed " + block + " " + describe(e));
        }
        left.countDown();
      }
      public void onBlockFetchFailure(String block, Throwable e) {
        say("failed " + block + " " + describe(e));
        left.countDown();
      }
    };
    DownloadFileManager files = new DownloadFileManager() {
      public DownloadFile createTempFile(TransportConf ignored) {
        try {
          return new SimpleDownloadFile(File.createTempFile("stream", null, out), conf);
        } catch (Exception e) {
          throw new RuntimeException(e);
        }
      }
      public boolean registerTempFileToClean(DownloadFile file) { return true; }
    };
    client.fetchBlocks(host, port, executor, blocks, listener, toDisk ? files : null);
    if (!left.await(120, TimeUnit.SECONDS)) say("error timeout");
  }

  /** Marked, because Spark logs to standard output too. */
  private static synchronized void say(String line) {
    System.out.println("> " + line);
  }

  private static String describe(Throwable e) {
    StringBuilder text = new StringBuilder();
    for (Throwable at = e; at != null; at = at.getCause()) {
      text.append(at.getClass().getName()).append(' ').append(String.valueOf(at.getMessage()).split("\n")[0]).append(" | ");
    }
    return text.toString();
  }
}
