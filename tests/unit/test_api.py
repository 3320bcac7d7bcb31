"""The names that `pyqueue` offers."""

import inspect
import re
from pathlib import Path

import pytest

import pyqueue

PUBLIC = [getattr(pyqueue, name) for name in pyqueue.__all__]


def test_all_names_are_there_and_sorted() -> None:
    assert pyqueue.__all__ == sorted(pyqueue.__all__)
    assert len(PUBLIC) == len(set(pyqueue.__all__))
    assert re.fullmatch(r"\d+\.\d+\.\d+", pyqueue.__version__)


def test_errors_have_one_base() -> None:
    """Retry is no error: handlers raise it."""
    errors = [x for x in PUBLIC if issubclass(x, Exception) and x is not pyqueue.Retry]
    assert len(errors) > 10
    assert all(issubclass(error, pyqueue.PyQueueError) for error in errors)


@pytest.mark.parametrize("thing", PUBLIC, ids=pyqueue.__all__)
def test_everything_public_is_documented(thing: type) -> None:
    assert inspect.getdoc(thing)
    for name, member in inspect.getmembers(thing):
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        if (getattr(member, "__module__", "") or "pyqueue").startswith("pyqueue"):
            assert inspect.getdoc(member), name


@pytest.mark.parametrize("thing", PUBLIC, ids=pyqueue.__all__)
def test_no_public_signature_has_any(thing: type) -> None:
    for name, member in inspect.getmembers(thing, inspect.isfunction):
        if not name.startswith("_") and member.__module__.startswith("pyqueue"):
            annotations = inspect.get_annotations(member)
            assert "return" in annotations, name
            assert not any("Any" in str(given) for given in annotations.values()), name


def test_the_types_of_all_of_it_are_tested() -> None:
    """tests/typing/api.py is read by mypy; this is so that no name is forgotten there."""
    text = (Path(__file__).parents[1] / "typing" / "api.py").read_text()
    for name in pyqueue.__all__:
        assert re.search(rf"\b{name}\b", text), name
    for thing in (pyqueue.Queue, pyqueue.Lease):
        for name in dir(thing):
            if not name.startswith("_"):
                assert f".{name}" in text, f"{thing.__name__}.{name}"
