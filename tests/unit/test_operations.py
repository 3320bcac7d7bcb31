"""Seconds and texts on their way to the server."""

import pytest

from pyqueue._operations import cut, milliseconds


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (1, 1000), (0.001, 1), (0.0014, 1), (0.0016, 2), (1.0005, 1000), (1e10, 10**13)],
)
def test_seconds_become_milliseconds(seconds: float, expected: int) -> None:
    assert milliseconds(seconds, "ttl") == expected


@pytest.mark.parametrize("seconds", [-0.001, -1, 1.1e10, float("inf"), -float("inf"), float("nan")])
def test_what_is_no_time_is_refused_by_name(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^delay is .* s: it must be "):
        milliseconds(seconds, "delay")


def test_a_least_time() -> None:
    assert milliseconds(0.001, "ttl", 1) == 1
    for seconds in (0, 0.0009):
        with pytest.raises(ValueError, match=r"must be from 0\.001 s to 1e10 s"):
            milliseconds(seconds, "ttl", 1)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("", 3, b""),
        ("abc", 3, b"abc"),
        ("abcd", 3, b"abc"),
        ("aü", 3, "aü".encode()),
        ("aüü", 4, "aü".encode()),
        ("💥💥", 7, "💥".encode()),
        ("💥", 3, b""),
        ("\ud800", 10, b"\\ud800"),
    ],
)
def test_text_is_cut_between_characters(text: str, most: int, expected: bytes) -> None:
    assert cut(text, most) == expected
