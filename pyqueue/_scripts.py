"""The Lua scripts: loaded once, their helpers pasted in, their headers read as data.

``python -m pyqueue._scripts DIRECTORY`` writes the assembled scripts to a directory, for linters
and for people who want to see the whole text that the server runs.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_INCLUDE = re.compile(r"^ *-- @include (\w+)\n", re.MULTILINE)
_KEY = re.compile(r"^-- KEYS\[(\d+)(?:\.\.\.)?\] (\w+)", re.MULTILINE)
_ARG = re.compile(r"^-- ARGV\[(\d+)(\.\.\.)?\] (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """One verb's script."""

    name: str
    source: str
    #: SHA-1 of the source, by which the server knows the script.
    sha: str
    #: The names of KEYS in order, as the header gives them (attributes of ``Keys``).
    keys: tuple[str, ...]
    #: The names of ARGV in order; a repeated last one ends with "...".
    args: tuple[str, ...]
    #: Whether the script changes something and so takes a call id (slot, number, ack).
    takes_call: bool


@cache
def folder() -> Path:
    """Where the Lua files are: in the installed package, else beside it in a checkout."""
    packaged = Path(__file__).parent / "lua"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "lua"


@cache
def _assemble(path: Path) -> str:
    lib = folder() / "lib"
    text = path.read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: _assemble(lib / f"{line[1]}.lua"), text)


def _numbered(found: list[tuple[int, str]], path: Path) -> tuple[str, ...]:
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the header of {path.name} does not count its slots from 1")
    return tuple(name for _, name in found)


@cache
def load(name: str) -> Script:
    """The script ``lua/<name>.lua``. Raises OSError or ValueError when the install is broken."""
    path = folder() / f"{name}.lua"
    source = _assemble(path)
    args = _numbered([(int(m[1]), m[3] + (m[2] or "")) for m in _ARG.finditer(source)], path)
    return Script(
        name=name,
        source=source,
        sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
        keys=_numbered([(int(m[1]), m[2]) for m in _KEY.finditer(source)], path),
        args=args,
        takes_call=args[1:4] == ("slot", "number", "ack"),
    )


def names() -> list[str]:
    """The names of all scripts."""
    return sorted(path.stem for path in folder().glob("*.lua"))


def _write_all(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names():
        (directory / f"{name}.lua").write_text(load(name).source, encoding="utf-8")


if __name__ == "__main__":
    _write_all(Path(sys.argv[1]))
