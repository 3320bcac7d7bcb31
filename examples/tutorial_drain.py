"""The worker of the Kubernetes tutorial, as one writes it with pyqueue.

    export PYQUEUE_URL=embedded:
    pyqueue push job2 apple banana cherry date fig grape lemon melon orange
    SECONDS=2 python examples/tutorial_drain.py

Against `tutorial_worker.py`: an error fails the item, which is tried again later, instead of ending
the worker; Ctrl-C gives it back at once; and taking the next item completes the one before, in one
round trip. The lease must last longer than the work here, since nothing extends it.
"""

import os
import time

from pyqueue import Queue

queue = Queue("job2")
for lease in queue.drain(ttl=60):
    with lease:
        print("Working on", lease.text, flush=True)
        time.sleep(float(os.getenv("SECONDS", "10")))
print("Everything is done")
