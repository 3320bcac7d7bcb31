"""The worker of the Kubernetes tutorial on the commands of its ``rediswq.py``, in their order."""

from __future__ import annotations

from bench.peers import TutorialQueue

from .raw import Raw


class Tutorial(Raw):
    """The loop of the tutorial's ``worker.py``, which begins anew where that one ends."""

    def work(self) -> None:
        queue, handle = TutorialQueue(self.client, self.settings.queue, both=False), self.handler()

        def take() -> None:
            item = queue.lease(lease_secs=10, timeout=2)
            if item is not None:
                handle(item)
                queue.complete(item)

        while True:
            take()
            while not queue.empty():
                take()


SUBJECT = Tutorial
