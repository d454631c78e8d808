"""What the applications here share: a job that runs twice, steered from outside through the directory that is the only
argument. It appends what happened, one JSON object a line, to `events`, and runs again when `go` exists.

For the driver alone: executors cannot import it.
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


def start(name):
    context = SparkSession.builder.appName(name).getOrCreate().sparkContext
    say(event="started", framework=context.applicationId)
    return context


def run(context, job, expected, **counters):
    """Says of each run whether the result is right, and how far the accumulators have counted."""
    say(event="first", correct=job() == expected, **{name: counter.value for name, counter in counters.items()})
    while not os.path.exists(os.path.join(control, "go")):
        time.sleep(0.1)
    say(event="second", correct=job() == expected, **{name: counter.value for name, counter in counters.items()})
    context.stop()
    say(event="stopped")
