"""An RDD on the executors' disks, read twice; it counts what its map side computes."""
from pyspark import StorageLevel

import twice

RECORDS = 20_000

sc = twice.start("persisted")
computed = sc.accumulator(0)


def square(number):
    computed.add(1)
    return number * number


squares = sc.range(0, RECORDS, numSlices=8).map(square).persist(StorageLevel.DISK_ONLY)
twice.run(sc, squares.sum, sum(number * number for number in range(RECORDS)), computed=computed)
