"""The process that owns one embedded server: starts it, ends it with its last user, ends with it.

Run as a script by `pyqueue.embedded`, which explains the lock files. Only what is quick to import
of the standard library.
"""

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
SHUTDOWN_SECONDS = 30
"""How long a server may take to write its data and end before it is taken for hung."""


def lock(name: str, flags: int = 0) -> int:
    """Lock a file of the current directory and return its descriptor, which holds the lock."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    return descriptor


def start_server(binary: str, socket_path: str, server_lock: int) -> int:
    """Start the server as a child that holds `server_lock`, and return its process id."""
    supervisor = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        if sys.platform == "linux":
            # SIGTERM, not SIGKILL: when this process is killed, the server still writes its data.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:  # it was killed before the prctl
                os._exit(1)
        os.set_inheritable(server_lock, True)
        # fmt: off
        os.execv(binary, [  # noqa: S606 there is no shell, and none is needed
            binary,
            "--port", "0",
            "--unixsocket", socket_path,
            "--unixsocketperm", "700",
            "--appendonly", "yes",
            "--appendfsync", "everysec",
            "--save", "",
            "--maxmemory-policy", "noeviction",
        ])
        # fmt: on
    except OSError as error:
        print(f"cannot run {binary}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def main(directory: str, socket_path: str, binary: str) -> None:
    """Run one server of `directory` from its first user to its last."""
    os.chdir(directory)
    os.umask(0o077)
    # Inherited from whoever came first. A blocked SIGTERM would make the server deaf to its end.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

    # The lock is taken before the fork and kept by the child, so that a starter that has waited
    # for the first process knows: as long as the lock is held, its server is on the way or there.
    try:
        lock("supervisor.lock", fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(os.EX_TEMPFAIL)  # that of a starter that was killed came first
    if os.fork():
        os._exit(0)

    server_lock = lock("server.lock")
    server = start_server(binary, socket_path, server_lock)
    os.close(server_lock)
    unused = threading.Event()

    def end_with_last_user() -> None:
        lock("users.lock")  # nobody uses the server, and nobody can until this process has ended
        unused.set()
        os.kill(server, signal.SIGTERM)
        time.sleep(SHUTDOWN_SECONDS)
        os.kill(server, signal.SIGKILL)

    threading.Thread(target=end_with_last_user, daemon=True).start()
    os.waitpid(server, 0)
    socket_directory = socket_path.rpartition("/")[0]
    if unused.is_set() and socket_directory != directory:
        # Only while users are locked out: the next server may need it.
        os.rmdir(socket_directory)  # noqa: PTH106 pathlib is slow to import
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
