"""One shuffle that is read twice, the second time when `go` exists in the directory given as the only argument, by
many short tasks one after the other. Appends what happened, one JSON object a line, to `events` there.

Its map side counts its own records, so that a recomputed map task shows.
"""
import json
import os
import random
import sys
import time

from pyspark.sql import SparkSession

control = sys.argv[1]
RECORDS, MAPS, REDUCES = 24_000, 24, 40


def say(**event):
    with open(os.path.join(control, "events"), "a") as out:
        out.write(json.dumps(event) + "\n")


spark = SparkSession.builder.appName("restart").getOrCreate()
sc = spark.sparkContext
say(event="started", framework=sc.applicationId)
mapped = sc.accumulator(0)


def record(number):
    mapped.add(1)
    # Bytes that no compression makes smaller: a block has some 60 KB.
    return number % 1009, (number, random.Random(number).randbytes(2400))


def summed(records):
    time.sleep(0.3)
    total = sum(key * number for key, (number, _) in records)
    return [total]


shuffled = sc.range(0, RECORDS, numSlices=MAPS).map(record).partitionBy(REDUCES)
expected = sum((number % 1009) * number for number in range(RECORDS))
first = sum(shuffled.mapPartitions(summed).collect())
say(event="first", correct=first == expected, mapped=mapped.value)
while not os.path.exists(os.path.join(control, "go")):
    time.sleep(0.1)
second = sum(shuffled.mapPartitions(summed).collect())
say(event="second", correct=second == expected, mapped=mapped.value, records=RECORDS)
spark.stop()
say(event="stopped")
