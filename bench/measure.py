"""What a stretch of work cost the server, from its own INFO; medians and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis

#: Commands of the measuring itself.
OURS = frozenset({"info", "config|resetstat", "ping", "client|setinfo", "hello", "select"})
#: Their own µs contain those of the commands that the script calls.
SCRIPTS = frozenset({"evalsha", "eval", "evalsha_ro", "fcall"})


@dataclass(frozen=True, slots=True)
class Cost:
    """What the server did, as differences of INFO."""

    #: µs within commands, the scripts' own commands not counted twice.
    micros: float
    #: Commands that came over a connection: round trips, but for pipelines.
    calls: float
    #: Commands that were carried out, those inside scripts among them and ``EVALSHA`` not.
    commands: float
    #: µs of processor time, with sockets and parsing.
    cpu: float
    #: µs and calls of each command.
    each: dict[str, tuple[float, float]]

    def per(self, items: int) -> Cost:
        """The same for one item."""
        return Cost(
            self.micros / items,
            self.calls / items,
            self.commands / items,
            self.cpu / items,
            {name: (micros / items, calls / items) for name, (micros, calls) in self.each.items()},
        )


class Meter:
    """Reads a server's counters before and after."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._before = self._read()

    def _read(self) -> tuple[dict[str, tuple[float, int]], float]:
        info = cast("dict[str, object]", self._client.info("commandstats", "cpu"))
        each = {
            name.removeprefix("cmdstat_"): (float(value["usec"]), int(value["calls"]))
            for name, value in info.items()
            if name.startswith("cmdstat_") and isinstance(value, dict)
        }
        seconds = [
            float(str(info[key]))
            for key in ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
            if key in info
        ]
        return each, sum(seconds) * 1e6

    def start(self) -> None:
        """From here on."""
        self._before = self._read()

    def stop(self) -> Cost:
        """What was done since ``start``, by whichever connection."""
        (before, cpu_before), (after, cpu) = self._before, self._read()
        each: dict[str, tuple[float, float]] = {}
        for name, (micros, calls) in after.items():
            old_micros, old_calls = before.get(name, (0.0, 0))
            if calls > old_calls and name not in OURS:
                each[name] = (micros - old_micros, calls - old_calls)
        scripts = [each[name] for name in each if name in SCRIPTS]
        plain = [each[name] for name in each if name not in SCRIPTS]
        return Cost(
            micros=sum(micros for micros, _ in scripts or plain),
            calls=sum(calls for _, calls in scripts or plain),
            commands=sum(calls for _, calls in plain),
            cpu=cpu - cpu_before,
            each=each,
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repetitions, and the quartiles around it."""

    median: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """For JSON: median, lower and upper quartile."""
        return [round(value, 4) for value in (self.median, self.low, self.high)]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles. Raises StatisticsError when there are no values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)
