"""Handlers that child processes import, and programs that run workers."""

import os
import signal
import sys
import time
from pathlib import Path

from pyqueue import AsyncLease, Lease, LeaseLost, Retry


def note(*words: object) -> None:
    """Adds a line to the file that $NOTES names, in one write."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def hang() -> None:
    """Until the process is ended, or the file $OPEN is there."""
    while not Path(os.environ["OPEN"]).exists():
        time.sleep(0.005)


def handler(lease: Lease) -> None:  # noqa: PLR0912 - one branch for each word
    """Does what the payload says."""
    word, _, rest = lease.text.partition(" ")
    note(word, lease.attempts, os.getpid())
    match word:
        case "signal":
            os.kill(os.getpid(), int(rest))
            hang()
        case "exit":
            os._exit(int(rest))
        case "raise":
            raise ValueError(rest)
        case "sysexit":
            sys.exit(3)
        case "bury":
            raise KeyError(rest)
        case "retry":
            if lease.attempts == 0:
                raise Retry(in_=0)
        case "complete":
            lease.extend(30)
            lease.complete(push="noop")
        case "fail":
            lease.fail("as told")
        case "lost":
            lease.complete()
            try:
                lease.complete()
            except LeaseLost as error:
                note("lost as", error.tokens == (lease.token,))
        case "hang":
            try:
                hang()
            finally:
                note("cleaned", lease.attempts)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hang()


async def async_handler(lease: AsyncLease) -> None:
    """Does what the payload says."""
    note(lease.text)


number = 3
