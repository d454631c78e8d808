"""One shuffle of large blocks that is read twice, by many short tasks one after the other.

Its map side counts its own records, so that a recomputed map task shows.
"""
import random
import time

import twice

RECORDS, MAPS, REDUCES = 24_000, 24, 40

sc = twice.start("restart")
mapped = sc.accumulator(0)


def record(number):
    mapped.add(1)
    # Bytes that no compression makes smaller: a block has some 60 KB.
    return number % 1009, (number, random.Random(number).randbytes(2400))


def summed(records):
    time.sleep(0.3)
    yield sum(key * number for key, (number, _) in records)


shuffled = sc.range(0, RECORDS, numSlices=MAPS).map(record).partitionBy(REDUCES)
expected = sum((number % 1009) * number for number in range(RECORDS))
twice.run(sc, lambda: sum(shuffled.mapPartitions(summed).collect()), expected, mapped=mapped)
