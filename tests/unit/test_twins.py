"""The two clients are one."""

import inspect

from pyqueue import AsyncLease, AsyncQueue, Lease, Queue
from tests import twins


def test_the_synchronous_client_is_the_generated_one() -> None:
    assert twins.TARGET.read_text() == twins.generated(), "run make twins"


def test_both_have_the_same_names_and_docstrings() -> None:
    for ours, theirs in ((Queue, AsyncQueue), (Lease, AsyncLease)):
        names = [name for name in dir(ours) if not name.startswith("_")]
        assert names == [name for name in dir(theirs) if not name.startswith("_")]
        for name in names:
            doc = inspect.getdoc(getattr(ours, name))
            assert doc or name == "token", name
            if doc and name != "close":  # which has more to wait for
                assert doc == (inspect.getdoc(getattr(theirs, name)) or "").replace("Async", "")
