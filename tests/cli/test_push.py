"""`pyqueue push`: what goes in is what is in the queue, byte for byte."""

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from pyqueue import Queue
from pyqueue.cli import push as module
from tests.cli.tools import COMMAND, SECONDS, Cli, on_terminal
from tests.servers import Server, wait_until


def payloads(queue: Queue) -> list[bytes]:
    return [item.payload for item in queue.waiting()]


def test_items_are_given_as_arguments(cli: Cli, queue: Queue) -> None:
    done = cli("push", "job2", "apple", "", b"\xff\x1b", "--", "-x")
    assert (done.code, done.out) == (0, b"")
    assert done.err == "job2: 4 items pushed (1 of them empty)\n"
    assert payloads(queue) == [b"apple", b"", b"\xff\x1b", b"-x"]


def test_ids_are_printed_when_asked_for(cli: Cli, queue: Queue) -> None:
    text = cli("push", "job2", "apple", "banana", "--ids", "--quiet")
    lines = cli("push", "job2", "cherry", "--json")
    assert text.err == ""
    ids = [*text.text.split(), *(line["id"] for line in lines.objects)]
    assert ids == [item.id for item in queue.waiting()]
    assert len(ids) == 3


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_line_is_an_item_whatever_is_in_it(cli: Cli, queue: Queue, ending: bytes) -> None:
    """An empty line too, and a carriage return stays: only the newline at the end is not part."""
    assert cli("push", "job2", "--stdin", input=b"a\n\nb\r\n\xff\0 \nlast" + ending).code == 0
    assert payloads(queue) == [b"a", b"", b"b\r", b"\xff\0 ", b"last"]


def test_nothing_at_all_is_no_item(cli: Cli, queue: Queue) -> None:
    assert cli("push", "job2", "--stdin").err == "job2: 0 items pushed\n"
    assert payloads(queue) == []


def test_items_can_end_with_nul(cli: Cli, queue: Queue) -> None:
    """As `find -print0` writes names that have newlines."""
    assert cli("push", "job2", "--stdin", "-0", input=b"a\nb\0\0c").code == 0
    assert payloads(queue) == [b"a\nb", b"", b"c"]


def test_a_file_is_read_line_by_line(cli: Cli, queue: Queue) -> None:
    """Also across the borders of what one read brings."""
    source = random.Random(1)
    lines = [source.randbytes(source.randrange(3000)).replace(b"\n", b"") for _ in range(2500)]
    (cli.directory / "items").write_bytes(b"\n".join(lines))
    assert cli("push", "job2", "--file", "items").code == 0
    assert payloads(queue) == lines


def test_millions_of_lines_do_not_fill_the_memory(cli: Cli, queue: Queue) -> None:
    """200,000 lines need as much as 1,000, up to 8 MB: held as a list they would need 16 MB more,
    and their ids as much again.
    """
    most = {}
    for number in (1_000, 200_000):
        with subprocess.Popen(
            [*COMMAND, "push", f"{number}", "--stdin", "--ids"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None
            for i in range(number):
                process.stdin.write(b"%040d\n" % i)
            process.stdin.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        most[number] = usage.ru_maxrss
    assert most[200_000] - most[1_000] < 8_000, most
    with Queue("200000", url=cli.url) as big:
        assert big.stats().waiting == 200_000


def test_lines_that_arrive_slowly_are_pushed_as_they_arrive(cli: Cli, queue: Queue) -> None:
    with subprocess.Popen(
        [*COMMAND, "push", "job2", "--stdin"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        for number in (1, 2):
            process.stdin.write(b"line\n")
            process.stdin.flush()
            wait_until(lambda: queue.stats().waiting == number, "the line is there")  # noqa: B023 - at once
    assert process.returncode == 0


def test_a_line_that_is_too_large_is_named_and_those_before_it_are_pushed(
    cli: Cli, queue: Queue
) -> None:
    lines = b"a\n" * 1500 + b"x" * 21 + b"\nb\n"
    done = cli("push", "job2", "--stdin", "--max-bytes", "20", input=lines)
    assert done.code == 1
    assert "line 1501 is larger than 20 bytes" in done.err
    assert "the 1,500 items before that were pushed" in done.err
    assert len(done.err.splitlines()) == 1
    assert payloads(queue) == [b"a"] * 1500


def test_an_endless_line_is_not_read_to_its_end(cli: Cli, queue: Queue) -> None:
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            [*COMMAND, "push", "job2", "--stdin"],
            stdin=endless,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert b"line 1 is larger than 1,048,576 bytes" in done.stderr
    assert b"nothing was pushed" in done.stderr


def test_items_get_headers(cli: Cli, queue: Queue) -> None:
    assert cli("push", "job2", "a", "--header", "k=v=w", "--header", "fruit=größer").code == 0
    (item,) = queue.waiting()
    assert item.headers == {"k": "v=w", "fruit": "größer"}


def test_a_header_that_is_no_text_is_refused(cli: Cli, queue: Queue) -> None:
    done = cli("push", "job2", "a", "--header", b"raw=\xff")
    assert done.code == 2
    assert "not UTF-8" in done.err
    assert payloads(queue) == []


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("a", "--stdin"),
        ("a", "--null"),
        ("a", "--header", "nothing"),
        ("a", "--header", "=v"),
        ("--file", "not-there"),
    ],
    ids=" ".join,
)
def test_wrong_usage_pushes_nothing(cli: Cli, queue: Queue, args: tuple[str, ...]) -> None:
    done = cli("push", "job2", *args, input=b"b\n")
    assert done.code == 2
    assert "Error: " in done.err
    assert payloads(queue) == []


def test_a_sealed_queue_takes_nothing(cli: Cli, queue: Queue) -> None:
    queue.seal()
    done = cli("push", "job2", "a")
    assert done.code == 1
    assert "sealed" in done.err
    assert "nothing was pushed" in done.err


def test_a_server_that_goes_away_half_way_is_told_with_what_was_pushed(
    cli: Cli, server: Server, queue: Queue
) -> None:
    with subprocess.Popen(
        [*COMMAND, "push", "job2", "--stdin"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        wait_until(lambda: queue.stats().waiting == 2, "two lines are there")
        server.stop()
        _, err = process.communicate(b"c\n", SECONDS)
    assert process.returncode == 69
    assert b"the 2 items before that were pushed; whether line 3 too is unknown" in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_says_what_was_pushed(cli: Cli, queue: Queue) -> None:
    with subprocess.Popen(
        [*COMMAND, "push", "job2", "--stdin", "--ids"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err == b"pyqueue: queue 'job2': interrupted; the 1 item before that was pushed\n"


def test_a_terminal_sees_a_bar(cli: Cli, queue: Queue) -> None:
    (cli.directory / "items").write_bytes(b"line\n" * 20_000)
    with on_terminal("push", "job2", "--file", "items") as until:
        seen = until("job2: 20,000 items pushed in")
    assert "100%" in seen


def test_elsewhere_a_line_now_and_then_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY", 0.0)
    module._lines("job2")(1234)
    assert "job2: 1,234 items pushed so far, " in capsys.readouterr().err
    monkeypatch.undo()
    module._lines("job2")(1234)
    assert capsys.readouterr().err == ""
