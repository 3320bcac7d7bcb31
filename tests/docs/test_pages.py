"""Every ``python`` block of the documentation runs, page by page, against a real server.

The blocks of a page share their names, in the order of the page. A comment ``<!--test … -->`` is a
block that readers do not see: what the page takes for granted, and what its sentences claim.
``py`` blocks are other libraries' and are left alone.
"""

import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import pyqueue
from pyqueue.cli._app import app
from tests.servers import Server

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^```python\n(?P<shown>.*?)^```$|^<!--test\n(?P<hidden>.*?)^-->$", re.MULTILINE | re.DOTALL
)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if BLOCK.search(page.read_text())
]


def _blocks(page: Path) -> Iterator[tuple[int, str]]:
    """The blocks of a page, each with the number of lines before it."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        group = "shown" if found["shown"] is not None else "hidden"
        yield text.count("\n", 0, found.start(group)), found[group]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block may await, as in ``python -m asyncio``."""
    monkeypatch.setenv("PYQUEUE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {
        "__name__": "page",
        "__file__": str(page),
        "server": server,
        "root": ROOT,
    }
    with asyncio.Runner() as runner:
        for before, source in _blocks(page):
            # The lines of a traceback are those of the page.
            code = compile(
                "\n" * before + source, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            result = eval(code, names)
            if inspect.iscoroutine(result):
                runner.run(result)
        for value in names.values():
            if isinstance(value, pyqueue.Queue | redis.Redis):
                value.close()


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Each line that runs the command: where it is, and its words up to the program to run."""
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.*")]
    for path in texts:
        for found in re.finditer(r"^(?:\$| {3}) pyqueue (.*)$", path.read_text(), re.MULTILINE):
            line = found[1].partition(" -- ")[0]
            yield f"{path.relative_to(ROOT)}: {found[0]}", shlex.split(line, comments=True)


def test_the_commands_that_are_shown_exist() -> None:
    """With the options that are shown, too."""
    shown = list(_commands())
    assert len(shown) > 20
    for where, (name, *words) in shown:
        assert name in app.commands, where
        known = {opt for param in app.commands[name].params for opt in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, where


def test_every_public_name_is_in_the_reference() -> None:
    """By hand on a page where it belongs; Sphinx then reads its docstring."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: pyqueue\.(\w+)", pages, re.MULTILINE))
    if ".. automodule:: pyqueue.errors" in pages:
        documented |= {name for name in pyqueue.__all__ if hasattr(pyqueue.errors, name)}
    assert set(pyqueue.__all__) - documented == set()
