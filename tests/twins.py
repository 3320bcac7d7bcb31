"""Writes ``pyqueue/client.py`` from ``pyqueue/aio.py``: ``make twins``.

The two clients differ by little more than ``await``. One is written and the other made of it, as
psycopg does it, so that both can be read, and neither can lag behind.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path("pyqueue/aio.py")
TARGET = Path("pyqueue/client.py")

#: In this order. Patterns of what is said otherwise, and how.
RULES = (
    (
        r'"""The asyncio client\. .*?"""',
        '"""The synchronous client. Generated from aio.py: ``make twins``."""',
    ),
    (
        r"The tasks of an event loop may share a queue\.",
        "Threads may share a queue. After a fork each process goes on by itself.",
    ),
    (r"\n    A caller that is cancelled loses nothing:.*?\n\n", "\n"),
    (r"what is pushed and settled at\n", "what threads push and settle at\n"),
    (r"batching: bool = True", "batching: bool = False"),
    (r"``redis\.asyncio`` ``Redis``", "redis-py ``Redis``"),
    (r"from redis\.asyncio import", "from redis import"),
    (r"redis\.asyncio\.", "redis."),
    (r"_caller_aio", "_caller"),
    (r"connect_async", "connect"),
    (r"AsyncIterator,\s+", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"Awaitable,\s+", ""),
    (r"Awaitable\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1"),
    (r"\basync (?=def|with|for)", ""),
    (r"\bawait ", ""),
    (r"for entry in page\.entries:\n +yield entry", "yield from page.entries"),
    (r"__a(?=enter__|exit__)", "__"),
)


def generated() -> str:
    """What ``pyqueue/client.py`` is to be."""
    text = SOURCE.read_text()
    for pattern, replacement in RULES:
        changed = re.sub(pattern, replacement, text, flags=re.DOTALL)
        if changed == text:
            raise AssertionError(f"nothing in {SOURCE} is like {pattern!r} any more")
        text = changed
    for command in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


if __name__ == "__main__":
    TARGET.write_text(generated())
