"""The worker of the Kubernetes tutorial "Fine Parallel Processing Using a Work Queue", on pyqueue.

Two lines differ from the tutorial's: the import, and no `host`, for PYQUEUE_URL says where.
"""

import time

from pyqueue import rediswq

q = rediswq.RedisWQ(name="job2")
print("Worker with sessionID: " + q.sessionID())
print("Initial queue state: empty=" + str(q.empty()))
while not q.empty():
    item = q.lease(lease_secs=10, block=True, timeout=2)
    if item is not None:
        itemstr = item.decode("utf-8")
        print("Working on " + itemstr)
        time.sleep(10)  # Put your actual work here instead of sleep.
        q.complete(item)
    else:
        print("Waiting for work")
print("Queue empty, exiting")
