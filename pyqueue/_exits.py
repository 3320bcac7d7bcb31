"""The exit codes that tell of an error of the library, for all that run as programs."""

from __future__ import annotations

from .errors import (
    EmbeddedUnavailable,
    InvalidName,
    PermissionDenied,
    SchemaMismatch,
    ServerUnavailable,
    WrongType,
)

FAILED, UNAVAILABLE, CONFIGURATION = 1, 69, 78

#: What does not get better by trying again.
_HOPELESS = (InvalidName, PermissionDenied, WrongType, SchemaMismatch, EmbeddedUnavailable)


def exit_code(error: Exception) -> int:
    """The exit code that tells of an error of the library."""
    if isinstance(error, ServerUnavailable):
        return UNAVAILABLE
    return CONFIGURATION if isinstance(error, _HOPELESS) else FAILED
