"""An RDD on the executors' disks, read twice; steered as elastic.py is, and counting what its map side computes."""
import json
import os
import sys
import time

from pyspark import StorageLevel
from pyspark.sql import SparkSession

control = sys.argv[1]


def say(**event):
    with open(os.path.join(control, "events"), "a") as out:
        out.write(json.dumps(event) + "\n")


sc = SparkSession.builder.appName("persisted").getOrCreate().sparkContext
say(event="started", framework=sc.applicationId)
computed = sc.accumulator(0)


def square(number):
    computed.add(1)
    return number * number


squares = sc.range(0, 20_000, numSlices=8).map(square).persist(StorageLevel.DISK_ONLY)
expected = sum(number * number for number in range(20_000))
say(event="first", correct=squares.sum() == expected, computed=computed.value)
while not os.path.exists(os.path.join(control, "go")):
    time.sleep(0.1)
say(event="second", correct=squares.sum() == expected, computed=computed.value)
sc.stop()
say(event="stopped")
