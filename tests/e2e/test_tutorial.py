"""The tutorial on a real cluster, and what goes wrong in it when pods die. Run by `make e2e`."""

import re
from collections import Counter
from datetime import datetime, timedelta

import pytest

from tests.e2e.cluster import FRUITS, PROGRAM, Json, Namespace, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Kills the worker itself, with no chance to say goodbye. A container's process 1 cannot be killed
# from inside, so the pod shares one process namespace (`shared_processes`). From a process that
# `kubectl exec` does not wait for: its connection may hang when the container goes.
KILL_WORKER = """
import os, pathlib, signal, sys, time
if os.fork():
    sys.exit()
os.closerange(0, 3)
time.sleep(0.5)
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if {b"work", b"job2"} <= set(path.read_bytes().split(b"\\0")):
        os.kill(int(path.parent.name), signal.SIGKILL)
"""
NO_FILL: Json = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "job2-fill"},
    "$patch": "delete",
}


def program(name: str, seconds: float) -> Json:
    """A patch: what the workers run for each item."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"process.sh": PROGRAM.format(seconds=seconds)},
    }


def pod_patch(name: str, pod: Json) -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": pod}},
    }


def options(name: str, *args: str) -> Json:
    """A patch: the options of `pyqueue work job2`."""
    args = (*args, "--", "/opt/program/process.sh", "{}")
    return pod_patch(name, {"containers": [{"name": "worker", "args": list(args)}]})


def shared_processes(name: str) -> Json:
    return pod_patch(name, {"shareProcessNamespace": True})


def fruits(pattern: str, lines: list[str]) -> Counter[str]:
    return Counter(found[1] for line in lines if (found := re.search(pattern, line)))


def assert_all_done_once(lines: list[str]) -> None:
    assert fruits(r"Done with (\w+)", lines) == Counter(FRUITS), "\n".join(lines)


def assert_nothing_left(namespace: Namespace) -> None:
    assert namespace.server("exists", "job2", "{job2}:leased", "{job2}:handoff") == "0"


def is_working(namespace: Namespace, pod: str) -> bool:
    """Say whether a pod is in the middle of an item."""
    lines = [line for line in namespace.log(pod) if re.match(r"(Working on|Done with) ", line)]
    return bool(lines) and lines[-1].startswith("Working on")


def working_pod(namespace: Namespace, app: str) -> str:
    """Wait for a pod that is in the middle of an item."""
    eventually(lambda: any(is_working(namespace, p) for p in namespace.pods(app)), "a pod at work")
    return next(p for p in namespace.pods(app) if is_working(namespace, p))


def test_the_tutorial(namespace: Namespace) -> None:
    """One command brings the server, the nine fruits and the Job; it ends when all is done."""
    namespace.apply("base")
    namespace.wait_complete("job2-fill")
    namespace.wait_complete("job-wq-2")

    lines = namespace.logs("job-wq-2")
    assert fruits(r"^Working on (\w+)$", lines) == Counter(FRUITS), "\n".join(lines)
    pods = namespace.pods("job-wq-2")
    assert len(pods) == 2
    for pod in pods:
        lines = namespace.log(pod)
        assert any(re.fullmatch(r"Worker with sessionID: \S+", line) for line in lines)
        assert "Initial queue state: empty=False" in lines
        assert any(line.startswith("Working on ") for line in lines), "it did a part of the work"
        assert lines[-1] == "Queue empty, exiting"
    assert_nothing_left(namespace)


def test_any_program_as_the_worker(namespace: Namespace) -> None:
    namespace.apply("overlays/program", program("job2-program", 0.5))
    namespace.wait_complete("job2-program")
    assert_all_done_once(namespace.logs("job2-program"))
    assert_nothing_left(namespace)


def test_a_pod_deleted_in_the_middle_of_an_item_gives_it_back(namespace: Namespace) -> None:
    """Its item is released at once and charged no attempt, its exit code is not 0, so that the
    Job does not take the work for done, and another pod finishes the item.
    """
    job = "job2-program"
    # The lease outlives the test: if the item comes back, it has been released.
    namespace.apply("overlays/program", program(job, 3), options(job, "--ttl", "600"))
    pod = working_pod(namespace, job)
    with namespace.following(pod) as log:
        namespace.kubectl("delete", "pod", pod, "--wait=false")
    deleted = log.read_text().splitlines()
    item = [line for line in deleted if line.startswith("Working on")][-1]
    (fruit,) = fruits(r"^Working on (\w+)", [item])
    assert f"Done with {fruit}" not in deleted
    assert "succeeded" not in namespace.get("job", job)["status"]

    namespace.wait_complete(job)
    survivors = [line for p in namespace.pods(job) if p != pod for line in namespace.log(p)]
    assert item in survivors, "another pod has the item, and it is its first attempt still"
    assert item.endswith("attempt 1")
    assert_all_done_once(deleted + survivors)
    assert_nothing_left(namespace)


def test_a_worker_killed_in_the_middle_of_an_item_loses_nothing(namespace: Namespace) -> None:
    """SIGKILL: nothing can be given back. The lease runs out and the item is reclaimed."""
    job = "job2-program"
    namespace.apply(
        "overlays/program",
        program(job, 3),
        options(job, "--ttl", "6"),
        shared_processes(job),
    )
    pod = working_pod(namespace, job)
    with namespace.following(pod) as log:
        namespace.kubectl("exec", pod, "--", "python3", "-c", KILL_WORKER)
    killed = log.read_text().splitlines()
    namespace.wait_complete(job)

    (status,) = namespace.pods(job)[pod]["status"]["containerStatuses"]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 137
    lines = killed + namespace.logs(job)
    assert_all_done_once(lines)
    begun = fruits(r"^Working on (\w+)", lines)
    (fruit,) = begun - Counter(FRUITS)
    assert f"Working on {fruit}, attempt 2" in lines
    assert_nothing_left(namespace)


def test_a_job_started_before_the_queue_is_filled_waits(namespace: Namespace) -> None:
    """An empty queue that never had an item is not one that is done."""
    job = "job2-program"
    namespace.apply("overlays/program", program(job, 0.5), NO_FILL)
    eventually(
        lambda: [p["status"]["phase"] for p in namespace.pods(job).values()] == ["Running"] * 2,
        "both pods run",
    )
    # Both have found the queue empty: they wait for the first item where a push wakes them.
    eventually(lambda: "blocked_clients:2" in namespace.server("info", "clients"), "both wait")
    assert "completionTime" not in namespace.get("job", job)["status"]
    namespace.server("rpush", "job2", *FRUITS)
    namespace.wait_complete(job)
    assert_all_done_once(namespace.logs(job))
    assert len(namespace.pods(job)) == 2


def test_workers_of_a_queue_that_is_filled_and_sealed_later_all_end(namespace: Namespace) -> None:
    """Both pods wait, share the work, and end with 0 within 3 s of the last completion."""
    job = "job2-program"
    namespace.apply(
        "overlays/program", program(job, 0.5), NO_FILL, options(job, "--until", "sealed")
    )
    eventually(lambda: "blocked_clients:2" in namespace.server("info", "clients"), "both wait")
    namespace.server("rpush", "job2", "kiwi")
    eventually(lambda: fruits(r"Done with (\w+)", namespace.logs(job))["kiwi"], "one is done")
    # Drained for now, and not sealed: they wait for more.
    eventually(lambda: "blocked_clients:2" in namespace.server("info", "clients"), "both wait")
    assert "completionTime" not in namespace.get("job", job)["status"]
    pod = next(iter(namespace.pods(job)))
    namespace.kubectl("exec", pod, "--", "pyqueue", "push", "job2", *FRUITS, "--seal")
    namespace.wait_complete(job)
    lines = namespace.logs(job)
    assert fruits(r"Done with (\w+)", lines) == Counter([*FRUITS, "kiwi"]), "\n".join(lines)
    stamps = [
        datetime.fromisoformat(line.split()[0][:19] + "+00:00")
        for name in namespace.pods(job)
        for line in namespace.kubectl("logs", "--timestamps", name).splitlines()
        if "Done with" in line
    ]
    pods = namespace.pods(job).values()
    assert len(pods) == 2
    for pod_found in pods:
        (status,) = pod_found["status"]["containerStatuses"]
        ended = status["state"]["terminated"]
        assert (ended["exitCode"], status["restartCount"]) == (0, 0)
        # Both times are cut to seconds.
        after = datetime.fromisoformat(ended["finishedAt"]) - max(stamps)
        assert after <= timedelta(seconds=4)
    assert_nothing_left(namespace)


def test_one_item_per_pod(namespace: Namespace) -> None:
    job = "job2-one-per-pod"
    namespace.apply("overlays/one-per-pod", program(job, 0))
    namespace.wait_complete(job)
    pods = namespace.pods(job)
    assert len(pods) == 9
    assert all(len(fruits(r"Done with (\w+)", namespace.log(pod))) == 1 for pod in pods)
    assert_all_done_once(namespace.logs(job))
    assert_nothing_left(namespace)


def test_a_job_whose_failed_pods_stay(namespace: Namespace) -> None:
    """`restartPolicy: Never`: a killed worker leaves a failed pod, and the Job makes another."""
    job = "job2-never"
    namespace.apply(
        "overlays/never",
        program(job, 3),
        options(job, "--ttl", "6"),
        shared_processes(job),
    )
    pod = working_pod(namespace, job)
    namespace.kubectl("exec", pod, "--", "python3", "-c", KILL_WORKER)
    namespace.wait_complete(job)
    phases = Counter(p["status"]["phase"] for p in namespace.pods(job).values())
    assert phases == {"Failed": 1, "Succeeded": 2}
    assert_all_done_once(namespace.logs(job))


def test_a_program_that_is_not_there_fails_the_pod_and_keeps_the_items(
    namespace: Namespace,
) -> None:
    """Exit code 78, on which the Job's podFailurePolicy gives up at once; no item is spent."""
    job = "job2-never"
    missing = [{"name": "worker", "args": ["--", "/opt/program/missing", "{}"]}]
    namespace.apply("overlays/never", pod_patch(job, {"containers": missing}))
    namespace.wait_complete("job2-fill")
    eventually(
        lambda: any(p["status"]["phase"] == "Failed" for p in namespace.pods(job).values()),
        "a pod has failed",
    )
    namespace.kubectl("delete", "job", job, "--cascade=orphan")
    for pod in namespace.pods(job).values():
        if pod["status"]["phase"] == "Failed":
            (status,) = pod["status"]["containerStatuses"]
            assert status["state"]["terminated"]["exitCode"] == 78
    eventually(lambda: namespace.server("llen", "job2") == "9", "all items are back")


def test_a_stream_without_an_end(namespace: Namespace) -> None:
    """The Deployment's pods wait for more, and go with 143 when they are told to."""
    app = "job2-continuous"
    namespace.apply("overlays/continuous", program(app, 0.2))
    everything = Counter(FRUITS)
    eventually(
        lambda: fruits(r"Done with (\w+)", namespace.logs(app)) == everything, "all done", 120
    )
    namespace.server("rpush", "job2", "kiwi", "lime")
    everything.update(["kiwi", "lime"])
    eventually(lambda: fruits(r"Done with (\w+)", namespace.logs(app)) == everything, "two more")
    for pod in namespace.pods(app).values():
        assert pod["status"]["phase"] == "Running"
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_the_server_restarts_in_the_middle(namespace: Namespace) -> None:
    """The append-only file brings all back, leases included, and the workers find it again."""
    job = "job2-program"
    namespace.apply("overlays/program", program(job, 1))
    working_pod(namespace, job)
    namespace.kubectl("exec", "statefulset/queue-redis", "--", "sh", "-c", "kill 1")
    namespace.wait_complete(job)
    (server,) = namespace.pods("queue-redis").values()
    assert server["status"]["containerStatuses"][0]["restartCount"] == 1
    assert_all_done_once(namespace.logs(job))
    assert_nothing_left(namespace)
