"""Lua as far as breaking it needs: tokens, statements, and every small change that may matter.

The scripts are formatted by stylua, one statement on a line, which is what `_starts` relies on.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<flags>\A\#![^\n]*)
    |(?P<include>--\ @include\ \w+)
    |(?P<comment>--[^\n]*)
    |(?P<string>'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
    |(?P<number>\d+(?:\.\d+)?(?:e\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<op>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^\#<>=(){}\[\];:,.])
    |(?P<space>\s+)""",
    re.VERBOSE,
)
INCLUDE = re.compile(r"^ *-- @include (\w+)\n", re.MULTILINE)

CLOSERS = {"end", "else", "elseif", "until"}
#: A statement ends before one of these.
ENDS = CLOSERS | {"do"}
OPERATORS = {"and", "or", "not", "==", "~=", "<", "<=", ">", ">=", "=", "+", "-", "*", "/", "%"}
OPERATORS |= {"^", "..", "#", ",", ".", ":"}
#: A line that follows one of these goes on with its statement.
UNFINISHED = OPERATORS | {"if", "elseif", "while", "until", "for", "in", "local", "function"}
NO_START = CLOSERS | {"and", "or", "not", "then", "do", "in", "true", "false", "nil"}
KEYWORDS = {"local", "if", "while", "for", "repeat", "return", "break", "function", "do"}

#: A statement, an include or the script's flags left out; a condition set; an operator, min, max or
#: a command replaced by another; a number changed; made by hand.
KINDS = ("drop", "false", "true", "operator", "number", "named")

#: To log is slow: each statement is logged once in a call.
PROBE = (
    "local probed = {} local function probe(at) if not probed[at] then probed[at] = true "
    "redis.log(redis.LOG_WARNING, 'mutants ' .. at) end end "
)

SWAPS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "~=",
    "~=": "==",
    "and": "or",
    "or": "and",
    "'-inf'": "'+inf'",
    "'RPUSH'": "'LPUSH'",
    "'LPUSH'": "'RPUSH'",
    "'ZRANGEBYSCORE'": "'ZREVRANGEBYSCORE'",
}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int
    line: int
    #: How many brackets are open around it.
    depth: int


@dataclass(frozen=True)
class Mutant:
    """One file of lua/, changed in one place."""

    file: str
    line: int
    #: The lines that are touched, before and after, blanks made one: what survivors.toml names.
    was: str
    becomes: str
    text: str = field(repr=False)
    #: The line that says when it is run, see `Source.probed`.
    probe: int
    #: What was done, one of KINDS.
    kind: str
    name: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.file, self.was, self.becomes

    def __str__(self) -> str:
        """Where and what; the name of one that was made by hand."""
        what = f"{self.name}: " if self.name else ""
        return f"{self.file}:{self.line}  {what}{self.was}  ->  {self.becomes or '(nothing)'}"


class Source:
    """A file of lua/."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text

    @cached_property
    def tokens(self) -> list[Token]:
        """All but blanks and comments.

        Raises:
            ValueError: the file has something in it that this tokenizer does not know.
        """
        tokens, at, line, depth = [], 0, 1, 0
        while at < len(self.text):
            found = TOKEN.match(self.text, at)
            if not found or found[0].startswith("--["):
                raise ValueError(f"{self.file}:{line}: {self.text[at : at + 20]!r} is not known")
            text, kind = found[0], str(found.lastgroup)
            depth -= kind == "op" and text in ")}]"
            if kind not in {"space", "comment"}:
                tokens.append(Token(kind, text, at, found.end(), line, depth))
            depth += kind == "op" and text in "({["
            line += text.count("\n")
            at = found.end()
        return tokens

    @cached_property
    def statements(self) -> list[tuple[int, int]]:
        """Of each statement the first token and the one behind its last, before any body."""
        tokens = self.tokens
        starts = {number for number in range(len(tokens)) if self._starts(number)}
        result = []
        for start in sorted(starts):
            end = start + 1
            while end < len(tokens) and end not in starts and tokens[end].text not in ENDS:
                end += 1
            result.append((start, end))
        return result

    def _starts(self, number: int) -> bool:
        token = self.tokens[number]
        if token.kind == "include":
            return True
        if token.depth or token.kind != "name" or token.text in NO_START:
            return False
        before = self.tokens[number - 1] if number else None
        return before is None or (before.line < token.line and before.text not in UNFINISHED)

    def probed(self) -> str:
        """The file, saying in the server's log which of its statements are run."""
        text = self.text
        first = min(self._probes)
        for start in sorted(self._probes, reverse=True):
            token = self.tokens[start]
            probe = f"probe('{self.file} {token.line} ')"
            probe += "\n" if token.kind == "include" else " "
            if start == first and "/" not in self.file:
                probe = PROBE + probe
            text = text[: token.start] + probe + text[token.start :]
        return text

    @cached_property
    def _probes(self) -> set[int]:
        """The statements that are not always run with the one before: those that begin or follow a
        block.
        """
        return self._walked[0]

    @cached_property
    def _homes(self) -> list[int]:
        """Of each token the line that says when it is run: for an `elseif` that of the `if`."""
        return self._walked[1]

    @cached_property
    def _walked(self) -> tuple[set[int], list[int]]:
        starts = {start for start, _ in self.statements}
        probes: set[int] = set()
        homes: list[int] = []
        blocks: list[int] = []
        home = self.tokens[min(starts)].line
        heads = 0
        alone = True
        for number, token in enumerate(self.tokens):
            if number in starts and alone:
                home = token.line
                alone = token.kind == "include"
                probes.add(number)
            if token.text == "do" and heads:
                heads -= 1
            elif token.text in {"if", "for", "while", "repeat", "function", "do"}:
                heads += token.text in {"for", "while"}
                blocks.append(home)
            elif token.text in {"elseif", "else"}:
                home = blocks[-1]
            elif token.text in {"end", "until"}:
                home = blocks.pop()
            alone = alone or token.kind == "include"
            alone = alone or token.text in {"then", "do", "else", "repeat", "function", "end"}
            homes.append(home)
        return probes, homes

    def changed(self, start: int, end: int, by: str, kind: str, name: str = "") -> Mutant:
        """The file with other text from `start` to `end`."""
        first = self.text.rfind("\n", 0, start) + 1
        last = self.text.find("\n", max(end - 1, start))
        last = len(self.text) if last < 0 else last
        home = bisect(self.tokens, start, key=lambda token: token.start) - 1
        touched = self.text[first:start] + by + self.text[end:last]
        return Mutant(
            self.file,
            self.text.count("\n", 0, start) + 1,
            " ".join(self.text[first:last].split()),
            " ".join(touched.split()),
            self.text[:first] + touched + self.text[last:],
            self._homes[max(home, 0)],
            kind,
            name,
        )

    def mutants(self, parts: set[str]) -> list[Mutant]:
        """Every mutant, no two alike. `parts` are the includes that define no name."""
        found = {mutant.text: mutant for mutant in self._mutants(parts)}
        found.pop(self.text, None)
        return list(found.values())

    def _mutants(self, parts: set[str]) -> Iterator[Mutant]:
        tokens = self.tokens
        for number, token in enumerate(tokens):
            before = tokens[number - 1].text if number else ""
            if token.kind == "flags" and " " in token.text:
                yield self.changed(token.start, token.end, token.text.split()[0], "drop")
            elif token.kind == "include" and token.text.split()[-1] in parts:
                yield self.changed(token.start, token.end, "", "drop")
            elif token.text in SWAPS:
                yield self.changed(token.start, token.end, SWAPS[token.text], "operator")
            elif token.text == "not":
                yield self.changed(token.start, token.end, "", "operator")
            elif token.text in {"min", "max"} and before == ".":
                other = "max" if token.text == "min" else "min"
                yield self.changed(token.start, token.end, other, "operator")
            elif token.text in {"+", "-"} and self._is_binary(number):
                other = "-" if token.text == "+" else "+"
                yield self.changed(token.start, token.end, other, "operator")
            elif token.kind == "number":
                yield from self._numbers(number)
            elif token.text in {"if", "elseif", "while", "until"}:
                yield from self._conditions(number)
        for start, end in self.statements:
            whole = tokens[start:end]
            assigns = any(token.text == "=" and token.depth == 0 for token in whole)
            calls = whole[-1].text == ")" and len(whole) > 1
            if whole[0].text not in KEYWORDS and (assigns or calls):
                yield self.changed(whole[0].start, whole[-1].end, "", "drop")

    def _is_binary(self, number: int) -> bool:
        before = self.tokens[number - 1]
        return (
            before.kind in {"name", "number", "string"}
            and before.text not in (OPERATORS | KEYWORDS | NO_START)
        ) or before.text in {")", "]"}

    def _numbers(self, number: int) -> Iterator[Mutant]:
        token = self.tokens[number]
        if [t.text for t in self.tokens[number - 2 : number]] == ["KEYS", "["]:
            return
        # A limit of bytes or of minutes may be off by one; not by half.
        value = float(token.text)
        other = value + 1 if value < 100_000 else value * 2
        yield self.changed(token.start, token.end, f"{other:.17g}", "number")
        if (
            value == 1
            and self.tokens[number - 1].text in {"+", "-"}
            and self._is_binary(number - 1)
        ):
            yield self.changed(token.start, token.end, "0", "number")

    def _conditions(self, number: int) -> Iterator[Mutant]:
        tokens, word = self.tokens, self.tokens[number].text
        end = number + 1
        if word == "until":
            while end < len(tokens) and not self._starts(end):
                end += 1
        else:
            while not (tokens[end].depth == 0 and tokens[end].text in {"then", "do"}):
                end += 1
        # A loop that never ends tells nothing.
        for value in {"while": ["false"], "until": ["true"]}.get(word, ["true", "false"]):
            yield self.changed(tokens[number + 1].start, tokens[end - 1].end, value, value)


class Folder:
    """The files of lua/, by their paths in it."""

    def __init__(self, path: Path) -> None:
        self.texts = {
            str(file.relative_to(path)): file.read_text(encoding="utf-8")
            for file in sorted(path.rglob("*.lua"))
        }

    def sources(self) -> list[Source]:
        return [Source(file, text) for file, text in self.texts.items()]

    def parts(self) -> set[str]:
        """The files of lib/ that run where they are included, instead of defining their name."""
        return {
            Path(file).stem
            for file, text in self.texts.items()
            if not re.search(rf"^local (function )?{Path(file).stem}\b", text, re.MULTILINE)
        }

    def assembled(self, changed: dict[str, str] | None = None) -> dict[str, str]:
        """Each script as the server gets it, by its file."""
        texts = self.texts | (changed or {})

        def whole(file: str) -> str:
            return INCLUDE.sub(lambda line: whole(f"lib/{line[1]}.lua"), texts[file])

        return {file: whole(file) for file in texts if "/" not in file}
