"""Kills the programs of a worker that was killed itself. Run as a script, by ``Guard``.

Standard input says ``TOKEN 0`` when a program is about to start, ``TOKEN GROUP`` when its process
group is known, ``TOKEN -`` when it has ended. The end of it is the end of the worker, whatever that
died of: what is still running then must not go on, for the item will be leased to somebody else.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

#: Seconds for a program that was about to start: it may not be there yet.
_LATE = 1.0
#: Seconds until it is given up: a process that hangs in the kernel does not die.
_MOST = 10.0


def main() -> None:
    # The worker decides when it is over, also when the terminal or `pkill` says so to everybody.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[bytes, int] = {}
    for line in sys.stdin.buffer:
        token, group = line.split()
        if group == b"-":
            groups.pop(token, None)
        else:
            groups[token] = int(group)
    if not groups:
        return
    for known in filter(None, groups.values()):
        with contextlib.suppress(OSError):
            os.killpg(known, signal.SIGKILL)
    now = time.monotonic()
    late = now + (_LATE if 0 in groups.values() else 0)
    while (found := list(_having(groups))) or time.monotonic() < late:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > now + _MOST:
            return
        time.sleep(0.01)


def _having(tokens: Collection[bytes]) -> Iterator[int]:
    """The processes with one of the tokens in their environment, where /proc tells (Linux): also
    a program whose group the worker could not say any more, and what has left its group.
    """
    marks = {b"PYQUEUE_TOKEN=" + token for token in tokens}
    proc = Path("/proc")
    with contextlib.suppress(OSError):
        if (proc / "self").readlink() != Path(str(os.getpid())):
            return  # it tells of other processes: those of the namespace around this one
    for directory in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or gone
            if not marks.isdisjoint((directory / "environ").read_bytes().split(b"\0")):
                yield int(directory.name)


if __name__ == "__main__":
    main()
