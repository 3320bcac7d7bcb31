"""Payloads, numbers and times for people, and for other programs."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping

import click

from pyqueue import Item, MalformedMessage

#: How much of a payload is shown where there is no terminal to be as wide as.
MOST_SHOWN = 500


def printable(text: str) -> str:
    """Text with everything escaped that a terminal would act on: control characters, and those
    that change the direction of writing.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def shown(payload: bytes, most: int = MOST_SHOWN) -> str:
    """A payload on one line, cut after about ``most`` characters."""
    text = printable(payload[: 4 * most].decode(errors="backslashreplace"))
    if len(text) > most or len(payload) > 4 * most:
        return f"{text[:most]}… ({count(len(payload))} bytes)"
    return text


def count(number: int) -> str:
    """A number with its thousands marked."""
    return f"{number:,}"


def items(number: int, noun: str = "item") -> str:
    """``1 item``, ``2 items``."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


def seconds(duration: float) -> str:
    """A duration with two or three digits that count."""
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    minutes, rest = divmod(round(duration), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def as_json(value: object) -> object:
    """A value that JSON can hold: bytes in base64, as what headers of other programs may have."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): as_json(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)


def item_as_json(item: Item) -> dict[str, object]:
    """What an item is, whole: the payload as text, or in base64 when it is not UTF-8."""
    found: dict[str, object] = {
        "deliveries": item.deliveries,
        "attempts": item.attempts,
        "suspect": item.suspect,
        "bytes": len(item.payload),
    }
    try:
        found["headers"] = as_json(item.headers)
        found |= {"priority": item.priority, "group": item.group, "unique": item.unique}
    except MalformedMessage as error:
        found["headers_error"] = str(error)
    try:
        found["payload"] = item.text
    except UnicodeDecodeError:
        found["payload_base64"] = base64.b64encode(item.payload).decode()
    return found


def write_json(value: Mapping[str, object]) -> None:
    """Writes a line to standard output, in ASCII: a terminal acts on some other characters."""
    click.echo(json.dumps(value))
