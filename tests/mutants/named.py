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
          r" \+ redis\.call\('ZCARD', delayed\)(?=\n)", ""),
    Named("drained in spite of waiting items", "lease.lua",
          r"leasable = redis\.call\('LLEN', waiting\)", "leasable = 0"),
    Named("drained in spite of the handoff", "lease.lua",
          r" \+ redis\.call\('LLEN', handoff\) \+ elsewhere", " + elsewhere"),
    Named("drained in spite of priorities", "lease.lua",
          r"(LLEN', handoff\)) \+ elsewhere", r"\1"),
    Named("drained in spite of groups", "lease.lua", r"redis\.call\('ZCARD', grouped\) or 0", "0"),
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
    Named("the version of the state is not raised", "lib/uses.lua",
          r"flags \+ feature, 2", "flags + feature, version"),
    Named("features are not asked for", "lib/begin.lua",
          r"not grouped and bit\.band\(flags, 244\) ~= 0", "false"),
    Named("lease does without the keys of features", "lease.lua",
          r"not grouped and not written", "false"),
    Named("redrive does without the keys of features", "redrive.lua",
          r"not grouped and bit\.band\(string\.byte\(message, 21\), 2\) ~= 0", "false"),
    Named("push does without the keys of features", "push.lua",
          r"ARGV\[5\] ~= '' and not grouped", "false"),

    Named("low priorities first", "lib/rank.lua", r"or text\(-level\)", "or text(level)"),
    Named("what is given back goes behind its equals", "lib/rank.lua",
          r"-level - 0\.5", "-level + 0.5"),
    Named("a priority is forgotten on arrival", "lib/arrive.lua",
          r"asks and asks\.priority", "false"),
    Named("a priority is forgotten when given back", "lib/restore.lua",
          r"asks and asks\.priority", "false"),
    Named("nobody is woken for a priority", "lib/rank.lua", r"redis\.call\('RPUSH', .*", ""),
    Named("nobody is woken for the next priority", "lease.lua",
          r"redis\.call\('RPUSH', waiting, wake\) -- the next.*", ""),

    Named("a group's next is not let go", "lib/free.lua", r"if next then", "if false then"),
    Named("a group's head blocks nobody", "lib/place.lua", r"if group and headed\[group\] then",
          "if false then"),
    Named("a group's next is another group's", "lib/free.lua",
          r"'\[' \.\. group \.\. '\\0'", "'-'"),
    Named("a group's next is that of a longer name", "lib/free.lua",
          r"'\(' \.\. group \.\. '\\1'", r"'(' .. group .. '\\255'"),
    Named("who is not the head lets the next go", "lib/free.lua", r"head == leaders\[i\] and ", ""),
    Named("a group lets its next go and names no head", "lib/free.lua",
          r"= string\.sub\(message, 5, 20\)", "= leaders[i]"),
    Named("a group that is empty stays", "lib/free.lua", r"redis\.call\('HDEL', groups, .*", ""),
    Named("a group's next is let go before its time", "lib/free.lua",
          r"if due > now then", "if false then"),
    Named("behind a head times are forgotten", "lib/place.lua", r"due > now and due or 0", "0"),
    Named("what a lease holds is not known", "lease.lua", r"redis\.call\('HSET', bound, .*", ""),
    Named("settle frees nothing", "lib/settle.lua", r"unbind\(\{ .*", ""),
    Named("settle leaves what a lease holds", "lib/settle.lua",
          r"redis\.call\('HDEL', bound, .*", ""),
    Named("expiry frees nothing", "lib/reclaim_expired.lua", r"unbind\(ended\)", ""),
    Named("failing frees nothing", "fail.lua", r"unbind\(ended\)", ""),
    Named("failing frees what is tried again", "fail.lua", r"unbind\(ended\)", "unbind(tokens)"),
    Named("burying frees nothing", "bury.lua", r"unbind\(tokens\)", ""),

    Named("a dedupe key is not checked", "lib/place.lua",
          r"or key and owner\(key, except, timed\)", ""),
    Named("a chosen id is not checked", "lib/place.lua", r"own and owner\(own\) or ", ""),
    Named("a dedupe key holds beyond its time", "lib/place.lua",
          r"\(expiry == 0 or expiry > now\)", "true"),
    Named("a dedupe key's time is ignored", "lib/place.lua",
          r"window > 0 and now \+ window or 0", "0"),
    Named("a dedupe key that runs out is not swept", "lib/sweep.lua",
          r"redis\.call\('HDEL', unique, .*", ""),
    Named("dedupe keys are not noted to be swept", "lib/place.lua",
          r"write\('ZADD', unique_due, times\)", ""),
    Named("a dedupe key is not freed", "lib/free.lua", r"redis\.call\('HDEL', unique, .*", ""),
    Named("another's dedupe key is freed", "lib/free.lua", r"taken == owners\[i\]", "taken"),
    Named("a dedupe key for a time is freed before it", "lib/free.lua", r"taken == owners\[i\]",
          "taken and string.sub(taken, 1, 16) == string.sub(owners[i], 1, 16)"),
    Named("keys and groups are written before the messages", "lib/place.lua",
          r"(?s)(  arrive\(ready\)\n.*?\n  end\n)(.*)(  return taken)", r"\2\1\3"),
    Named("a letter whose key is taken is lost", "redrive.lua", r"table\.remove\(ids, .*", ""),
    Named("a letter's own key refuses it", "redrive.lua",
          r"string\.sub\(message, 5, 20\), true \}", "nil, true }"),
    Named("purge keeps keys and groups", "purge.lua",
          r"elseif bit\.band\(flags, 16\) ~= 0", "elseif false"),
    Named("purge frees nothing of what it drops", "lib/drop.lua", r"free\(gone\)", ""),
    Named("purge lets the next of a group go", "lib/drop.lua",
          r"\{ grouped, priority, delayed, handoff, waiting \}",
          "{ priority, grouped, delayed, handoff, waiting }"),

    Named("a burst of one more", "lib/allowance.lua", r"math\.floor\(burst - ahead",
          "math.floor(burst + 1 - ahead"),
    Named("what is leased does not count for the rate", "lease.lua",
          r"ahead \+ #messages \* interval, 0", "ahead, 0"),
    Named("the rate's bucket is not kept", "lib/bucket.lua", r"redis\.call\('HSET', .*", ""),
    Named("the whole fleet is told one time", "lease.lua",
          r"math\.ceil\(hint \+ told \* interval / 1000\)", "hint"),
    Named("max_leased and one more", "lib/allowance.lua", r"tonumber\(config\[1\]\) - redis",
          "tonumber(config[1]) + 1 - redis"),
    Named("limits are not looked at", "lease.lua", r"n > 0 and bit\.band\(flags, 96\) ~= 0",
          "false"),
    Named("caps are not looked at", "push.lua", r"if bit\.band\(flags, 64\) ~= 0", "if false"),
    Named("max_waiting and one more", "lib/room.lua",
          r"there \+ #ARGV - 5 >", "there + #ARGV - 6 >"),
    Named("max_waiting but for groups", "lib/room.lua",
          r" \+ redis\.call\('ZCARD', grouped\)", ""),
    Named("max_bytes is not checked", "lib/room.lua", r"length > tonumber\(caps\[2\]\)", "false"),
    Named("headers count for max_bytes", "lib/room.lua", r"length = length - .*", ""),
    Named("max_lease does not hold an extension", "extend.lua",
          r"math\.min\(now \+ ttl, .*", "now + ttl"),
    Named("max_lease does not hold a ttl", "lease.lua",
          r"math\.min\((integer\('ttl', ttl, 1, 1e13\)), longest\)", r"\1"),
    Named("an item's own attempts are ignored", "lib/limits.lua", r"asks and asks.* or tonumber",
          "tonumber"),
    Named("anything can be configured", "configure.lua", r"text\(integer\(name, .*", "value"),
    Named("nothing is too little to configure", "configure.lua", r"least\[name\], name", "0, name"),
    Named("any rate can be configured", "configure.lua", r"if not \(number and number .*",
          "if false then"),
    Named("what is configured is not marked", "configure.lua", r"uses\(feature\)", ""),

    Named("a lost lease has follow-ups", "complete_push.lua",
          r"if held_it then(?=\n  local bond)", "if true then"),
    Named("a lease that goes back has follow-ups", "complete_push.lua", r"held_it = false", ""),
    Named("a failed lease that goes back has follow-ups", "fail_push.lua", r"value = false", ""),
    Named("what is tried again has follow-ups", "fail_push.lua",
          r"if outcome == 2 then(?=\n  local ended)", "if outcome > 0 then"),
    Named("follow-ups are written before all are looked at", "lib/follow.lua",
          r"pass = 1, 2", "pass = 2, 2"),
    Named("follow-ups are written after what they follow is gone", "complete_push.lua",
          r"(?s)if held_it then\n  (local bond[^\n]*\n)  (local ended[^\n]*\n)(.*?\nend\n)"
          r"(.*?completed \+ 1\nend\n)",
          r"\1\2\4if held_it then\n\3"),
    Named("a follow-up may not have its item's key", "lib/follow.lua",
          r"target == 0 and ended or nil", "nil"),

    Named("an import overwrites", "import.lua",
          r"redis\.call\('HEXISTS', dead, ARGV\[i\]\) == 1", "false"),
    Named("anything can be imported", "import.lua", r"if #ARGV\[i\] ~= 16 or .*", "if false then"),
    Named("repair writes when it is asked whether", "repair.lua", r"if not write then",
          "if false then"),
    Named("repair removes a lease that is whole", "repair.lua",
          r"(?<=lease' then\n)    return redis\.call\('ZSCORE', leases, ref\)\n.* == 0",
          "    return true"),
    Named("repair removes what differs", "repair.lua", r"body\(copy\) ~= body\(kept\)", "false"),
    Named("repair removes the only one", "repair.lua", r"not copy or not kept or ", "not copy or "),
    Named("repair removes what it keeps", "repair.lua",
          r"where == other_where and ref == other_ref", "false"),
    Named("repair moves a group's head that may have come back", "repair.lua",
          r"proof ~= text\(back\) and 'busy'(?=\n)", "false"),
    Named("repair frees a key whose item may have come back", "repair.lua",
          r"proof ~= text\(back\) and 'busy' or", "false or"),
    Named("repair frees a key that is another's by now", "repair.lua",
          r"redis\.call\('HGET', unique, detail\) ~= id .*", "false then"),
    Named("repair takes a key from another", "repair.lua",
          r"redis\.call\('HEXISTS', unique, detail\) == 0", "true"),
    Named("repair replaces a group's head by another", "repair.lua",
          r"\(head or ''\) == other_ref", "true"),
    Named("repair leads a group by what is gone", "repair.lua",
          r"and at\(where, ref, id\)\n\s+and \(other_ref", "and (other_ref"),
    Named("repair mends the books while items move", "repair.lua", r"all == detail", "true"),
    Named("repair takes a field that is sound", "repair.lua",
          r"value and not sound\(ref, value\)", "value"),
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
        result.append(source.changed(*found[0].span(), found[0].expand(one.by), "named", one.name))
    return result
