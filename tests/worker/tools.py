"""What the tests of workers have in common."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyqueue import Lease, Queue, Worker
from pyqueue import _operations as op
from pyqueue.models import HeldItem
from tests.servers import SECONDS


class Background:
    """A worker that runs in a thread; its code when it has ended."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.code = self.worker.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the worker did not end"
        if self.error is not None:
            raise self.error
        assert self.code is not None
        return self.code


@contextmanager
def running(worker: Worker) -> Iterator[Background]:
    """Runs a worker while the test does something; it is stopped at the end."""
    background = Background(worker)
    try:
        yield background
    finally:
        worker.stop()
        worker.stop()
        background._thread.join(SECONDS)


def steal(queue: Queue, lease: HeldItem) -> None:
    """Takes a lease away from its worker, as if it had run out: its item waits again."""
    assert not queue._run(op.Release((lease.token,), 0))


class Gate:
    """Handlers wait at it."""

    def __init__(self) -> None:
        self.entered: list[Lease] = []
        self._open = threading.Event()

    def __call__(self, lease: Lease) -> None:
        self.entered.append(lease)
        assert self._open.wait(SECONDS), "the gate was never opened"

    def open(self) -> None:
        self._open.set()
