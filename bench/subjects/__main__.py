"""``python -m bench.subjects MODULE produce|work``: one process of one subject.

A producer reads orders as lines of JSON, carries them out and answers with lines of JSON; a worker
works until it is killed. What they are told stands in the environment, see `base.Settings`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import platform
import signal
import sys
import time
from importlib.metadata import version

from .base import AsyncSubject, Settings, Subject, payloads


def _subject(module: str) -> Subject:
    found = importlib.import_module(f"bench.subjects.{module}").SUBJECT
    subject = found(Settings.read())
    assert isinstance(subject, Subject)
    return subject


def _produce(subject: Subject) -> None:
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if isinstance(subject, AsyncSubject):
        subject.loop.run_until_complete(subject.open())
    versions = {name: version(name) for name in subject.packages}
    versions["python"] = platform.python_version()
    answers.write(json.dumps({"offers": subject.offers(), "versions": versions}) + "\n")
    for line in sys.stdin:
        order = json.loads(line)
        items = payloads(order["count"], order["start"])
        do = getattr(subject, order["do"])
        gc.collect()
        cpu, began = time.process_time(), time.monotonic_ns()
        do(items)
        ended = time.monotonic_ns()
        seconds = time.process_time() - cpu
        answers.write(json.dumps({"began": began, "ended": ended, "cpu": seconds}) + "\n")


if __name__ == "__main__":
    _, module, role = sys.argv
    if role == "produce":
        _produce(_subject(module))
    else:
        if sys.platform == "linux":  # a worker must not outlive a harness that was killed
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        _subject(module).work()
