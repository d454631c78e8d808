import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;

/** Counts lattice points in a circle; its result is exact, so a lost or doubled task shows. */
public final class JavaPi {
  public static void main(String[] args) throws Exception {
    int radius = 1000;
    try (JavaSparkContext sc = new JavaSparkContext(new SparkConf().setAppName("JavaPi"))) {
      long inside = sc.parallelize(IntStream.rangeClosed(-radius, radius).boxed().collect(Collectors.toList()), 12)
          .map(x -> 2L * (long) Math.floor(Math.sqrt((double) radius * radius - (double) x * x)) + 1)
          .reduce(Long::sum);
      Files.writeString(Path.of(args[0], "events"),
          "{\"event\": \"result\", \"inside\": " + inside + "}\n",
          StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
  }
}
