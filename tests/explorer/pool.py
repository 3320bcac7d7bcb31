"""The walk in several processes, each with a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context

from tests.explorer.scenarios import Scenario
from tests.explorer.search import Expanded, Explorer, expand_packed
from tests.servers import launch

_open = ExitStack()
_explorer: Explorer


def _begin(source: str, scenario: Scenario, items: int) -> None:
    """A server for this process, with which it ends."""
    global _explorer  # noqa: PLW0603 - what a process of the pool works with
    server = _open.enter_context(launch(source, "--appendonly", "no"))
    _explorer = Explorer(server.client(), scenario, items)


def _expand(many: list[bytes]) -> Expanded:
    return expand_packed(_explorer, many)


@contextmanager
def processes(
    count: int, source: str, scenario: Scenario, items: int
) -> Iterator[Callable[[Iterator[list[bytes]]], Iterator[Expanded]]]:
    """What `walk` takes as `run`."""
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(source, scenario, items)
    )
    try:
        yield lambda chunks: pool.map(_expand, chunks)
    finally:
        pool.shutdown(cancel_futures=True)
