"""Mutants made by hand: one for each check without which items would be lost, doubled or stranded.

Each is a pattern that a file of lua/ must have once, and what takes its place.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.mutants.lua import Mutant, Source


@dataclass(frozen=True)
class Named:
    """A change with a name."""

    name: str
    file: str
    #: A regular expression, and its replacement as `re.sub` takes it.
    pattern: str
    by: str


# fmt: off
NAMED = [
    Named("tokens are not checked by settle", "lib/settle.lua",
          r"redis\.call\('HEXISTS', leased, ARGV\[i\]\) == 0", "false"),
    Named("settle leaves the deadline", "lib/settle.lua",
          r"redis\.call\('ZREM', leases, unpack\(ARGV, from\)\)", "#ARGV - from + 1"),
    Named("settle leaves the holder", "lib/settle.lua", r"redis\.call\('HDEL', leased, .*", ""),
    Named("forget leaves the deadline", "lib/forget.lua", r"redis\.call\('ZREM', leases, .*", ""),
    Named("forget leaves the holder", "lib/forget.lua", r"redis\.call\('HDEL', leased, .*", ""),
    Named("extend renews a lost lease", "extend.lua",
          r"if redis\.call\('ZSCORE', leases, ARGV\[i\]\) then", "if true then"),
    Named("release gives an item back twice", "release.lua", r"not seen\[ARGV\[i\]\] and ", ""),
    Named("fail gives an item back twice", "fail.lua", r"not seen\[ARGV\[i\]\] and ", ""),
    Named("bury buries an item twice", "bury.lua", r"not seen\[ARGV\[i\]\] and ", ""),
    Named("one attempt too many", "fail.lua",
          r"attempts >= limits", "attempts > limits"),
    Named("one attempt too many by expiry", "lib/reclaim_expired.lua",
          r"attempts >= limits", "attempts > limits"),
    Named("attempts are not counted", "lib/returned.lua", r"attempts \+ charged", "attempts"),
    Named("deliveries are not counted", "lib/returned.lua", r"deliveries \+ 1", "deliveries"),
    Named("expiry is free", "lib/reclaim_expired.lua", r"token, 1, 1\)", "token, 0, 1)"),
    Named("expiry makes no suspect", "lib/reclaim_expired.lua", r"token, 1, 1\)", "token, 1, 0)"),
    Named("release charges an attempt", "release.lua", r"\(ARGV\[i\]\), 0, 0", "(ARGV[i]), 1, 0"),
    Named("an unseen lease charges an attempt", "lib/resolve.lua",
          r"token, 0, 0\)", "token, 1, 0)"),
    Named("a replay is a new call", "lib/begin.lua", r"number == known", "false"),
    Named("a late copy is carried out", "lib/begin.lua", r"number < known", "false"),
    Named("unseen leases are not restored", "lib/begin.lua",
          r"known > ack and known_count > 0", "false"),
    Named("a seen lease is taken for unseen", "lib/begin.lua", r"known > ack and ", ""),
    Named("no call is remembered", "lib/remember.lua", r"redis\.call\('HSET', calls0, .*", ""),
    Named("outcomes are not remembered", "lib/remember.lua", r"unusual and new .*or new", "new"),
    Named("a suspect has company", "lease.lua", r"alone = true", "alone = false"),
    Named("a suspect joins a batch", "lease.lua",
          r"(alone = true\n\s+if )#messages > 0", r"\1false"),
    Named("the seal is not checked", "push.lua", r"if flags % 2 == 1", "if false"),
    Named("the pause is not checked", "lease.lua", r"\(paused or limited\) and 0", "limited and 0"),
    Named("drained in spite of leases", "lease.lua",
          r"behind \+ redis\.call\('ZCARD', leases\)", "behind"),
    Named("drained in spite of delayed items", "lease.lua",
          r" \+ redis\.call\('ZCARD', delayed\) == 0", " == 0"),
    Named("drained in spite of waiting items", "lease.lua",
          r"leasable = redis\.call\('LLEN', waiting\)", "leasable = 0"),
    Named("drained in spite of the handoff", "lease.lua",
          r"(\n\s+\+ )redis\.call\('LLEN', handoff\)", r"\g<1>0"),
    Named("the handoff is never emptied", "lease.lua", r"redis\.call\('LTRIM', handoff, .*", ""),
    Named("tokens do not rise", "lease.lua",
          r"new_first, new_count = math\.max\(last \+ 1, micros\)",
          "new_first, new_count = micros"),
    Named("no outage guard", "lib/open.lua", r"now - called > 5000", "false"),
    Named("leases are not held after an outage", "lib/reclaim_expired.lua",
          r"latest = math\.min\(now, guard_from\)", "latest = now"),
    Named("a later schema is read", "lib/open.lua", r" or version > 2", ""),
    Named("anybody may set the time", "lib/open.lua", r"elseif flags >= 2147483648", "elseif true"),
    Named("rights are not asked for", "lib/allowed.lua", r"if not record then", "if false then"),
    Named("markers are leased", "lease.lua", r"what ~= 'marker'", "true"),
    Named("malformed messages are leased", "lease.lua", r"what == 'malformed'", "false"),
    Named("nobody is woken for what is due", "lib/delay.lua", r"redis\.call\('RPUSH', .*", ""),
    Named("a dead letter overwrites another", "lib/entomb.lua",
          r" or redis\.call\('HEXISTS', dead, id\) == 1", ""),
    Named("a redriven letter stays dead too", "redrive.lua", r"redis\.call\('HDEL', dead, .*", ""),
    Named("what is live is deleted without force", "delete.lua", r"live \+ buried > 0", "false"),
]
# fmt: on


def named(sources: Iterable[Source], chosen: Iterable[Named] = NAMED) -> list[Mutant]:
    """The mutants.

    Raises:
        LookupError: a file does not have the pattern, or not just once.
    """
    by_file = {source.file: source for source in sources}
    result = []
    for one in chosen:
        source = by_file[one.file]
        found = list(re.finditer(one.pattern, source.text))
        if len(found) != 1:
            raise LookupError(
                f"tests/mutants/named.py, {one.name!r}: {one.file} has {one.pattern!r} "
                f"{len(found)} times"
            )
        result.append(source.changed(*found[0].span(), found[0].expand(one.by), one.name))
    return result
