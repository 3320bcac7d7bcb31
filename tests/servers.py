"""The real servers that the tests run on.

A *source* is where a server comes from: `valkey` (the binary of the embedded server), `redis`
(`redis-server` on PATH), and `image:NAME` for each container image in `PYQUEUE_TEST_IMAGES`
(separated by spaces); or only `url` when `PYQUEUE_TEST_URL` names a server. Its *kind* is what it
turns out to be: `valkey` or `redis`.

A local server listens on a Unix socket (`url`) and on a port of 127.0.0.1 (`tcp_url`), writes an
append-only file into a directory of its own, and dies with the process that launched it.
"""

import contextlib
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyqueue import embedded
from pyqueue.errors import EmbeddedUnavailable

SECONDS = 20
POLL_SECONDS = 0.002
PORTS = range(10_000, 22_768)
"""Below the ephemeral ports, and so is the bus port of a Cluster node, 10,000 above its own."""

PERSISTENCE = ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
"""Every write is in the file before its reply, so SIGKILL loses none. With `everysec` it could lose
the newest: they wait in memory while a sync is under way."""

DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):  # the parent died before the prctl
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class PortTaken(Exception):
    """Somebody else listens on the port that was chosen."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Poll until the condition is true.

    Raises:
        AssertionError: it was still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)


class Server(ABC):
    """A server of the tests, and what can be done to it."""

    source: str
    kind: str
    version: tuple[int, ...]
    url: str
    tcp_url: str

    def client(self) -> redis.Redis:
        """Return a client with bytes replies, which never repeats a command by itself."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))

    def answers(self) -> bool:
        """Say whether the server is there and has loaded its data."""
        try:
            with self.client() as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        except redis.ResponseError:
            return True
        return True

    def identify(self, text: str) -> None:
        """Take kind and version from the server's log, which needs no password."""
        found = re.search(r"\b(Redis|Valkey) version=([\d.]+)", text)
        assert found, text
        self.kind = found[1].lower()
        self.version = tuple(map(int, found[2].split(".")))

    @abstractmethod
    def start(self) -> None:
        """Start it with the arguments, the addresses and the data it had; wait until it answers."""

    @abstractmethod
    def stop(self, *, kill: bool = False) -> None:
        """End it in good order, or with SIGKILL; wait until it has ended."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it, as SIGSTOP does. Its connections stay open."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on after `pause`."""

    @abstractmethod
    def heal(self) -> None:
        """Resume it or start it again, whatever a test did to it."""

    @abstractmethod
    def close(self) -> None:
        """End it and remove what it left behind."""

    def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it again, with its data."""
        self.stop(kill=kill)
        self.start()

    def empty(self) -> None:
        """Remove all data."""
        with self.client() as client:
            client.flushall()

    def __repr__(self) -> str:
        """Show what it is and where."""
        return f"<{self.kind} {'.'.join(map(str, self.version))} from {self.source}, {self.url}>"


class LocalServer(Server):
    """A server process of this machine, and of the thread that launched it."""

    def __init__(self, source: str, binary: str, args: tuple[str, ...]) -> None:
        """Launch `binary` with further command-line arguments."""
        self.source = source
        self.binary = binary
        self.args = args
        # Not below $TMPDIR, which may be too long for a Unix socket.
        self.directory = Path(tempfile.mkdtemp(prefix="pyqueue-test-", dir="/tmp"))
        self.url = f"unix://{self.directory}/socket"
        try:
            self._start_on_a_free_port()
            self.identify(self.log())
        except BaseException:
            shutil.rmtree(self.directory)
            raise

    def _start_on_a_free_port(self) -> None:
        while True:
            self.port = random.choice(PORTS)
            self.tcp_url = f"redis://127.0.0.1:{self.port}"
            with contextlib.suppress(PortTaken):
                self.start()
                return

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Return what it has logged since its last start."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start the process, and wait until it answers and has loaded its data."""
        directory = str(self.directory)
        # fmt: off
        options = [
            "--bind", "127.0.0.1",
            "--port", str(self.port),
            "--unixsocket", f"{directory}/socket",
            "--dir", directory,
            *PERSISTENCE,
        ]
        # fmt: on
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())),
                    *(self.binary, *options, *self.args),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._is_up, f"{self.binary} {self.args} answers")
        except BaseException:
            self.stop(kill=True)
            raise

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            if "Address already in use" in self.log():
                raise PortTaken(self.port)
            raise RuntimeError(f"{self.binary} {self.args} ended:\n{self.log()}")
        return self.answers()

    def stop(self, *, kill: bool = False) -> None:
        """End the process, paused or not; wait until it has ended."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(SECONDS)

    def pause(self) -> None:
        """Freeze the process, and return when it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let the process go on."""
        self.process.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Resume it, or start it again when it has ended."""
        if self.process.poll() is None:
            self.resume()
        else:
            self.start()

    def close(self) -> None:
        """Kill it and remove its directory."""
        self.stop(kill=True)
        shutil.rmtree(self.directory)


def check_docker() -> None:
    """Skip the test when Docker does not answer."""
    import docker.errors  # type: ignore[import-untyped]

    try:
        docker.from_env().close()
    except docker.errors.DockerException as error:
        reason = str(error)
    else:
        return
    # The Docker library leaves the socket that found no daemon open: not this test's fault.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    pytest.skip(f"Docker does not answer: {reason}")


class ContainerServer(Server):
    """A server in a container, whose entry point takes the server's arguments."""

    def __init__(self, source: str, args: tuple[str, ...]) -> None:
        """Start a container of the image that the source names; skip where that cannot be done."""
        import docker.errors
        from testcontainers.core.container import DockerContainer

        check_docker()
        self.source = source
        image = source.removeprefix("image:")
        command = [*PERSISTENCE, "--protected-mode", "no", *args]
        # A port of Docker's choice would change when the container is started again.
        self.container = DockerContainer(image).with_bind_ports(6379, random.choice(PORTS))
        try:
            self.container.with_command(command).start()
        except docker.errors.DockerException as error:
            self.container.stop()
            pytest.skip(f"Docker cannot start {image}: {error}")
        try:
            port = self.container.get_exposed_port(6379)
            self.url = self.tcp_url = f"redis://{self.container.get_container_host_ip()}:{port}"
            wait_until(self.answers, f"{image} {args} answers")
            self.identify(b"".join(self.container.get_logs()).decode(errors="replace"))
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the container again, and wait until the server answers."""
        self.container.get_wrapped_container().start()
        wait_until(self.answers, f"{self.source} answers")

    def stop(self, *, kill: bool = False) -> None:
        """Stop or kill the container."""
        container = self.container.get_wrapped_container()
        if kill:
            container.kill()
            container.wait()
        else:
            container.stop()

    def pause(self) -> None:
        """Freeze the container."""
        self.container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let the container go on."""
        self.container.get_wrapped_container().unpause()

    def heal(self) -> None:
        """Resume it, or start it again when it has ended."""
        container = self.container.get_wrapped_container()
        container.reload()
        if container.status == "paused":
            self.resume()
        elif container.status != "running":
            self.start()

    def close(self) -> None:
        """Remove the container and its volumes."""
        self.container.stop()


class GivenServer(Server):
    """The server of `PYQUEUE_TEST_URL`: its database is emptied, and nothing else done to it."""

    source = "url"

    def __init__(self) -> None:
        """Ask the server what it is."""
        self.url = self.tcp_url = os.environ["PYQUEUE_TEST_URL"]
        with self.client() as client:
            info = client.info("server")
        assert isinstance(info, dict)
        self.kind = "valkey" if "valkey_version" in info else "redis"
        self.version = tuple(map(int, str(info[f"{self.kind}_version"]).split(".")))

    def start(self) -> None:
        """Skip the test."""
        pytest.skip("the server of PYQUEUE_TEST_URL cannot be stopped or started by a test")

    def stop(self, *, kill: bool = False) -> None:
        """Skip the test."""
        self.start()

    def pause(self) -> None:
        """Skip the test."""
        self.start()

    def resume(self) -> None:
        """Skip the test."""
        self.start()

    def heal(self) -> None:
        """Do nothing: no test has done anything to it."""

    def close(self) -> None:
        """Leave it as it is."""

    def empty(self) -> None:
        """Remove the data of its database."""
        with self.client() as client:
            client.flushdb()


def sources() -> list[str]:
    """Return the sources to run the tests on; one that is missing skips them with a reason."""
    if "PYQUEUE_TEST_URL" in os.environ:
        return ["url"]
    images = os.environ.get("PYQUEUE_TEST_IMAGES", "").split()
    return ["valkey", "redis", *(f"image:{image}" for image in images)]


@contextlib.contextmanager
def launch(source: str, *args: str) -> Iterator[Server]:
    """Run one more server of a source, for instance with "--maxmemory", "5mb".

    The arguments come after the usual ones and override them. The test is skipped when the
    source is not there. A local server ends with the thread that launched it.

    Raises:
        RuntimeError: the server ends instead of starting; with its log.
        AssertionError: it does not answer within 20 seconds.
    """
    server = _launch(source, args)
    try:
        yield server
    finally:
        server.close()


def _launch(source: str, args: tuple[str, ...]) -> Server:
    if source == "url":
        if args:
            pytest.skip("PYQUEUE_TEST_URL names one server, which a test cannot configure")
        return GivenServer()
    if source.startswith("image:"):
        return ContainerServer(source, args)
    if source == "valkey":
        try:
            return LocalServer(source, str(embedded._binary()), args)
        except EmbeddedUnavailable as error:
            pytest.skip(str(error))
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("no redis-server on PATH")
    return LocalServer(source, path, args)
