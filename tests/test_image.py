"""The worker image, built and run against a real server. Skipped where no Docker daemon is."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.e2e.cluster import build_image
from tests.servers import Server, launch, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
FRUITS = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"]
PRINT = ("sh", "-c", 'printf "<%s>\\n" "$1"', "sh", "{}")


def docker(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *args], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def succeed(*args: str, stdin: str | None = None) -> str:
    done = docker(*args, stdin=stdin)
    assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def base() -> str:
    """The image that the Dockerfile builds on."""
    try:
        done = docker("version")
    except FileNotFoundError:
        pytest.skip("no docker on PATH")
    if done.returncode != 0:
        pytest.skip(f"no Docker daemon: {done.stderr.strip()}")
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (name,) = (line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))
    if docker("image", "inspect", name).returncode != 0:
        pulled = docker("pull", "--quiet", name)
        if pulled.returncode != 0:
            pytest.skip(f"{name} is not here and cannot be pulled: {pulled.stderr.strip()}")
    return name


@pytest.fixture(scope="module")
def image(base: str) -> Iterator[str]:
    tag = f"pyqueue-test:{uuid.uuid4().hex[:12]}"
    build_image(tag)
    yield tag
    succeed("image", "rm", "--force", tag)


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    with launch("redis") as server:
        yield server


@pytest.fixture
def client(module_server: Server) -> Iterator[redis.Redis]:
    module_server.empty()
    with module_server.client() as client:
        yield client


@pytest.fixture
def options(module_server: Server, client: redis.Redis) -> list[str]:
    """The strictest way to run a container, beside the server's address."""
    return [
        *("--network", "host", "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges"),
        *("--env", f"PYQUEUE_URL={module_server.tcp_url}", "--env", "QUEUE=job2"),
    ]


def left(client: redis.Redis) -> tuple[int, int]:
    """How many items wait, and how many are in flight."""
    return client.llen("job2"), client.hlen("{job2}:leased")


def test_it_drains_the_queue_with_the_given_program(
    image: str, options: list[str], client: redis.Redis
) -> None:
    client.rpush("job2", *FRUITS)
    printed = succeed("run", "--rm", *options, image, *PRINT)
    assert printed.splitlines() == [f"<{fruit}>" for fruit in FRUITS]
    assert left(client) == (0, 0)


def test_arguments_that_begin_with_a_dash_are_options(
    image: str, options: list[str], client: redis.Redis
) -> None:
    client.rpush("job2", *FRUITS)
    printed = succeed("run", "--rm", *options, image, "--max-items", "1", "--", *PRINT)
    assert printed.splitlines() == ["<apple>"]
    assert left(client) == (8, 0)


@pytest.mark.parametrize("payload", ["$(touch /tmp/x) `id` \"'\\ *", "-n", "--help", "{}", ""])
def test_no_shell_ever_reads_a_payload(
    image: str, options: list[str], client: redis.Redis, payload: str
) -> None:
    client.rpush("job2", payload)
    assert succeed("run", "--rm", *options, image, *PRINT) == f"<{payload}>\n"


def test_an_image_made_from_it_needs_four_lines(
    image: str, options: list[str], client: redis.Redis, tmp_path: Path
) -> None:
    """The first lines of the Dockerfile say which."""
    tag = f"{image}-derived"
    (tmp_path / "process.sh").write_text(
        '#!/bin/sh\npwd\npython -c "import pyqueue"\necho "<$1>"\n'
    )
    (tmp_path / "process.sh").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        f'FROM {image}\nCOPY process.sh ./\nENV QUEUE=job2\nCMD ["./process.sh", "{{}}"]\n'
    )
    build_image(tag, tmp_path)
    client.rpush("job2", "apple")
    try:
        assert succeed("run", "--rm", *options[:-2], tag).splitlines() == ["/app", "<apple>"]
    finally:
        succeed("image", "rm", "--force", tag)


@pytest.mark.parametrize(
    ("more", "command"),
    [
        pytest.param([], [], id="no program"),
        pytest.param([], ["./missing", "{}"], id="a program that is not there"),
        pytest.param(["--env", "QUEUE="], PRINT, id="no queue"),
        pytest.param(["--env", "PYQUEUE_URL=nonsense"], PRINT, id="no URL"),
    ],
)
def test_a_mistake_ends_with_78_and_costs_no_item(
    image: str, options: list[str], client: redis.Redis, more: list[str], command: list[str]
) -> None:
    """78 is what a Job's podFailurePolicy gives up on."""
    client.rpush("job2", *FRUITS)
    done = docker("run", "--rm", *options, *more, image, *command)
    assert done.returncode == 78, done.stderr
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert left(client) == (9, 0)


def test_docker_stop_gives_the_item_back(
    image: str, options: list[str], client: redis.Redis
) -> None:
    """SIGTERM reaches the worker, which is process 1, and through it the program."""
    client.rpush("job2", *FRUITS)
    program = ("sh", "-c", 'echo "<$1>"; exec sleep 600', "sh", "{}")
    container = succeed("run", "--detach", *options, image, *program).strip()
    try:
        wait_until(lambda: "<apple>" in docker("logs", container).stdout, "it works on apple", 60)
        succeed("stop", "--time", "60", container)
        (state,) = json.loads(succeed("inspect", container))
        assert state["State"]["ExitCode"] == 143
        assert left(client) == (9, 0)
        assert client.lrange("job2", 0, 0)[0][-5:] == b"apple"
    finally:
        succeed("rm", "--force", container)


def test_it_leaves_no_zombies(image: str, options: list[str], client: redis.Redis) -> None:
    """Whatever a program leaves running becomes a child of process 1, the worker."""
    client.rpush("job2", *FRUITS)
    program = ("sh", "-c", "sleep 0.01 & exit 0")
    container = succeed(
        *("run", "--detach", *options, image, "--until", "forever", "--", *program)
    ).strip()
    zombies = "import pathlib; print([s for p in pathlib.Path('/proc').glob('[0-9]*/stat')"
    zombies += " if ' Z ' in (s := p.read_text())])"
    try:
        wait_until(lambda: left(client) == (0, 0), "all is done", 60)
        wait_until(
            lambda: succeed("exec", container, "python3", "-c", zombies) == "[]\n", "no zombies", 30
        )
    finally:
        succeed("rm", "--force", container)


def test_it_is_small_and_tells_no_secrets(image: str, base: str) -> None:
    (built,) = json.loads(succeed("image", "inspect", image))
    (below,) = json.loads(succeed("image", "inspect", base))
    assert built["Size"] - below["Size"] < 40_000_000
    assert built["Config"]["User"] == "10001:10001"
    history = succeed("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "PIP_INDEX_URL" not in history


def test_only_what_it_needs_is_sent_to_the_builder(base: str, tmp_path: Path) -> None:
    """.dockerignore: no environment, no caches, no git history."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {base}\nCOPY . /context\n")
    tag = f"pyqueue-test:{uuid.uuid4().hex[:12]}"
    build_image(tag, dockerfile=dockerfile)
    try:
        listing = succeed("run", "--rm", tag, "sh", "-c", "cd /context && find . -type f")
    finally:
        succeed("image", "rm", "--force", tag)
    files = {line.removeprefix("./") for line in listing.splitlines()}
    assert not any("__pycache__" in file for file in files)
    assert {file for file in files if not file.startswith(("lua/", "pyqueue/"))} <= {
        *("LICENSE", "README.md", "pyproject.toml", "requirements/image.txt"),
        *(".dockerignore", "Dockerfile"),
    }
