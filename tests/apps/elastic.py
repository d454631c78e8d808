"""Two bursts over one shuffled RDD, steered from outside through the directory given as the only argument.

It appends what happened, one JSON object a line, to `events`, and goes on to the second burst when `go` exists.
Its map side counts its own records, so that a recomputed map task shows.
"""
import json
import os
import sys
import time

from pyspark.sql import SparkSession

control = sys.argv[1]


def say(**event):
    with open(os.path.join(control, "events"), "a") as out:
        out.write(json.dumps(event) + "\n")


spark = SparkSession.builder.appName("elastic").getOrCreate()
sc = spark.sparkContext
say(event="started", framework=sc.applicationId)
mapped = sc.accumulator(0)


def spread(number):
    mapped.add(1)
    return number % 1009, number


def slow(records):
    time.sleep(float(os.environ.get("TASK_SECONDS", "0")))
    yield from records


sums = sc.range(0, 120_000, numSlices=24).mapPartitions(slow).map(spread).reduceByKey(lambda a, b: a + b, 12)


def burst():
    return sum(key * total for key, total in sums.collect())


expected = sum((number % 1009) * number for number in range(120_000))
first = burst()
say(event="first", correct=first == expected, mapped=mapped.value)
while not os.path.exists(os.path.join(control, "go")):
    time.sleep(0.1)
second = burst()
say(event="second", correct=second == expected, mapped=mapped.value)
spark.stop()
say(event="stopped")
