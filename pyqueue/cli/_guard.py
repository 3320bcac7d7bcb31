"""Kills the programs of a worker that was killed itself. Run as a script, by ``Guard``.

Standard input says ``+GROUP`` when a process group has begun and ``-GROUP`` when it has ended. Its
end is the end of the worker, whatever that died of: what is still running then must not go on, for
the item will be leased to somebody else.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    # The worker decides when it is over, also when the terminal or `pkill` says so to everybody.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
