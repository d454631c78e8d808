// Load on an external shuffle service from Spark's own client of it, every byte compared.
//
// Arguments: PORT APP CONNECTIONS BLOCKS-PER-FETCH MAPS BLOCKS-PER-MAP BLOCK-BYTES MILLISECONDS CONTENT LATENCIES
// CONTENT is a file that holds what every map output holds. Prints "warm" when the clock starts and
// "done BLOCKS NANOSECONDS" at the end; a microseconds figure for each fetch goes to the file LATENCIES.
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.spark.network.buffer.ManagedBuffer;
import org.apache.spark.network.shuffle.*;
import org.apache.spark.network.util.MapConfigProvider;
import org.apache.spark.network.util.TransportConf;

public class SparkLoad {
  private static final long WARM_UP_NANOS = 6_000_000_000L;
  private static int port, connections, perFetch, maps, blocksPerMap, blockBytes;
  private static byte[] content;
  private static ExternalBlockStoreClient client;
  private static volatile boolean counted;
  private static volatile long end;
  private static final AtomicLong blocks = new AtomicLong();

  public static void main(String[] args) throws Exception {
    port = Integer.parseInt(args[0]);
    connections = Integer.parseInt(args[2]);
    perFetch = Integer.parseInt(args[3]);
    maps = Integer.parseInt(args[4]);
    blocksPerMap = Integer.parseInt(args[5]);
    blockBytes = Integer.parseInt(args[6]);
    content = Files.readAllBytes(Paths.get(args[8]));
    Map<String, String> settings = new HashMap<>();
    settings.put("spark.shuffle.io.numConnectionsPerPeer", args[2]);
    client = new ExternalBlockStoreClient(
        new TransportConf("shuffle", new MapConfigProvider(settings)), null, false, 20000);
    client.init(args[1]);
    long start = System.nanoTime();
    end = Long.MAX_VALUE;
    ExecutorService threads = Executors.newFixedThreadPool(connections);
    List<Future<List<Long>>> all = new ArrayList<>();
    for (int i = 0; i < connections; i++) {
      int number = i;
      all.add(threads.submit(() -> run(number)));
    }
    while (System.nanoTime() - start < WARM_UP_NANOS) Thread.sleep(10);
    start = System.nanoTime();
    counted = true;
    System.out.println("warm");
    end = start + Long.parseLong(args[7]) * 1_000_000L;
    try (PrintWriter out = new PrintWriter(args[9])) {
      for (Future<List<Long>> one : all) {
        for (long us : one.get()) out.println(us);
      }
    } catch (ExecutionException e) {
      System.out.println("failed " + e.getCause());
      System.exit(1);
    }
    System.out.println("done " + blocks.get() + " " + (System.nanoTime() - start));
    System.exit(0);
  }

  private static List<Long> run(int number) throws Exception {
    List<Long> latencies = new ArrayList<>();
    for (int round = number; System.nanoTime() < end; round += connections) {
      boolean measured = counted;
      long start = System.nanoTime();
      fetch(round);
      if (measured) {
        latencies.add((System.nanoTime() - start) / 1000);
        blocks.addAndGet(perFetch);
      }
    }
    return latencies;
  }

  private static void fetch(int round) throws Exception {
    int map = round % maps;
    // Spark's client names a block once in a fetch.
    String[] ids = new String[Math.min(perFetch, blocksPerMap)];
    for (int i = 0; i < ids.length; i++) ids[i] = "shuffle_0_" + map + "_" + (round * 7 + i) % blocksPerMap;
    CountDownLatch left = new CountDownLatch(ids.length);
    ConcurrentLinkedQueue<String> failed = new ConcurrentLinkedQueue<>();
    client.fetchBlocks("127.0.0.1", port, "1", ids, new BlockFetchingListener() {
      public void onBlockFetchSuccess(String block, ManagedBuffer data) {
        try {
          int reduce = Integer.parseInt(block.substring(block.lastIndexOf('_') + 1));
          ByteBuffer expected = ByteBuffer.wrap(content, reduce * blockBytes, blockBytes);
          if (!data.nioByteBuffer().equals(expected)) failed.add(block + ": other bytes than were written");
        } catch (Exception e) {
          failed.add(block + ": " + e);
        }
        left.countDown();
      }
      public void onBlockFetchFailure(String block, Throwable e) {
        failed.add(block + ": " + e);
        left.countDown();
      }
    }, null);
    left.await();
    if (!failed.isEmpty()) throw new IllegalStateException(failed.peek());
  }
}
