"""The worker of the Kubernetes tutorial "Fine Parallel Processing Using a Work Queue".

Only the import differs (and how long the work takes can be set). Run it in two terminals:

    export PYQUEUE_URL=embedded:
    pyqueue push job2 apple banana cherry date fig grape lemon melon orange
    SECONDS=2 python examples/tutorial_worker.py

Kill one with `kill -9` in the middle of a fruit: the other one waits for it to come back, within
10 seconds, and does it too.
"""

import os
import time

import pyqueue.rediswq as rediswq  # noqa: PLR0402 - the tutorial's line, with a name before

host = os.getenv("REDIS_SERVICE_HOST")

q = rediswq.RedisWQ(name="job2", host=host)
print("Worker with sessionID: " + q.sessionID())
print("Initial queue state: empty=" + str(q.empty()))
while not q.empty():
    item = q.lease(lease_secs=10, block=True, timeout=2)
    if item is not None:
        itemstr = item.decode("utf-8")
        print("Working on " + itemstr, flush=True)
        time.sleep(float(os.getenv("SECONDS", "10")))  # Put your actual work here instead of sleep.
        q.complete(item)
    else:
        print("Waiting for work", flush=True)
print("Queue empty, exiting")
