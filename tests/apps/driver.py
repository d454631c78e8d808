"""A driver that does nothing but say what it finds, until its JVM ends.

Arguments after the directory of `twice`: names of settings, and with a dollar of environment variables.
"""
import os
import sys
import time

import twice

jvm = os.getppid()
settings = twice.start("driver").getConf()
found = {name: os.environ.get(name[1:]) if name[0] == "$" else settings.get(name) for name in sys.argv[2:]}
twice.say(event="found", jvm=jvm, **found)
while os.getppid() == jvm:
    time.sleep(0.1)
