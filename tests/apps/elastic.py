"""Two bursts over one shuffled RDD, whose map tasks take TASK_SECONDS each.

Its map side counts its own records, so that a recomputed map task shows.
"""
import os
import time

import twice

RECORDS = 120_000

sc = twice.start("elastic")
mapped = sc.accumulator(0)
seconds = float(os.environ.get("TASK_SECONDS", "0"))


def slow(records):
    time.sleep(seconds)
    yield from records


def spread(number):
    mapped.add(1)
    return number % 1009, number


sums = sc.range(0, RECORDS, numSlices=24).mapPartitions(slow).map(spread).reduceByKey(lambda a, b: a + b, 12)
expected = sum((number % 1009) * number for number in range(RECORDS))
twice.run(sc, lambda: sum(key * total for key, total in sums.collect()), expected, mapped=mapped)
