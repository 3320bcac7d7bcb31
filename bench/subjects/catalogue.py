"""Which subjects there are, with what settings: for the harness, which imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

#: The environments that subjects run in; `compare` knows where they are.
PEERS, ARQ, NODE = "peers", "arq", "node"
#: What the ratios are taken of.
BASE = "raw LMOVE + LREM"


@dataclass(frozen=True, slots=True)
class Subject:
    """One library with one set of settings."""

    name: str
    #: Of ``bench.subjects``, or of ``bench/node``.
    module: str
    variant: str
    #: Items that one worker works off in a round: about a second's worth.
    items: int
    #: How it is set up, in a few words.
    settings: str
    environment: str = PEERS
    #: Items pushed one by one in a round; 0 where another subject of the library is measured.
    pushes: int = 1000
    #: What its pushes are called; "" for its name.
    producer: str = ""
    #: What brings a dead worker's items back, and after how long.
    redelivery: str = ""
    #: What was set so that they come back after about 5 s; "" where nothing can be set.
    tuned: str = ""
    #: Items of the run in which a worker is killed; 0 where another subject of the library is.
    killed: int = 400


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        BASE,
        "raw",
        "",
        4000,
        "LMOVE, then LREM; BLMOVE when the list is empty",
        pushes=2000,
        producer="RPUSH",
        redelivery="never: what a dead worker held stays in its list",
    ),
    Subject(
        "Streams, COUNT 1",
        "streams",
        "1",
        2500,
        "XREADGROUP COUNT 1 BLOCK 2000; XACK, XDEL",
        pushes=2000,
        producer="XADD",
        redelivery="never, unless somebody calls XAUTOCLAIM",
    ),
    Subject(
        "Streams, COUNT 100",
        "streams",
        "100",
        60_000,
        "the same with COUNT 100",
        pushes=0,
        redelivery="never, unless somebody calls XAUTOCLAIM",
        killed=1000,
    ),
    Subject(
        "rediswq (tutorial)",
        "tutorial",
        "",
        1500,
        "the loop of the tutorial's worker.py, lease_secs=10, timeout=2",
        pushes=0,
        redelivery="never: leases run out, and nothing is done about it",
    ),
    Subject(
        "pyqueue, one per round trip",
        "pyqueue",
        "1",
        6000,
        "Queue.lease_many(1, completed=…)",
        pushes=2000,
        producer="pyqueue Queue",
        redelivery="60 s: ttl",
        tuned="ttl=5",
    ),
    Subject(
        "pyqueue, batches of 100",
        "pyqueue",
        "100",
        100_000,
        "Queue.lease_many(100, completed=…)",
        pushes=0,
        redelivery="60 s: ttl",
        tuned="ttl=5",
        killed=1000,
    ),
    Subject(
        "pyqueue Worker, 10 threads",
        "workers",
        "threads",
        15_000,
        "Worker(queue, handler), concurrency 10",
        pushes=0,
        redelivery="60 s: ttl",
        tuned="ttl=5",
    ),
    Subject(
        "pyqueue AsyncWorker, 100 tasks",
        "workers",
        "tasks",
        60_000,
        "AsyncWorker(queue, handler), concurrency 100",
        producer="pyqueue AsyncQueue",
        redelivery="60 s: ttl",
        tuned="ttl=5",
        killed=2000,
    ),
    Subject(
        "RQ",
        "rq",
        "",
        300,
        "Worker: forks for each job; results kept for 500 s",
        pushes=500,
        redelivery="not by itself: maintenance every 10 min moves it to the failed jobs",
        tuned="Retry(max=3), maintenance_interval=5, job_monitoring_interval=1",
        killed=100,
    ),
    Subject(
        "RQ, SimpleWorker",
        "rq",
        "simple",
        1200,
        "SimpleWorker: does not fork; result_ttl=0",
        pushes=0,
        killed=0,
    ),
    Subject(
        "arq",
        "arq",
        "",
        800,
        "max_jobs=10, poll_delay=0.5, results kept for an hour",
        ARQ,
        pushes=500,
        redelivery="310 s: job_timeout + 10",
        tuned="job_timeout=5",
    ),
    Subject(
        "arq, 100 jobs",
        "arq",
        "best",
        1500,
        "max_jobs=100, poll_delay=0.05, keep_result=0, log_results=False",
        ARQ,
        pushes=0,
        killed=0,
    ),
    Subject(
        "SAQ",
        "saq",
        "",
        800,
        "concurrency=10, results kept for 10 min",
        pushes=500,
        redelivery="aborted at a sweep (60 s), as its one attempt was begun; 5 s for each",
        tuned="timeout=5, retries=3, sweep every 5 s",
    ),
    Subject(
        "SAQ, 100 jobs",
        "saq",
        "best",
        1200,
        "concurrency=100",
        pushes=0,
        killed=0,
    ),
    Subject(
        "dramatiq",
        "dramatiq",
        "",
        3000,
        "--processes 1 --threads 8",
        redelivery="60 s: heartbeat_timeout; looked for at one command in a thousand",
        tuned="heartbeat_timeout=5000, maintenance_chance=100000",
        killed=2000,
    ),
    Subject(
        "dramatiq, 2 threads",
        "dramatiq",
        "2 1000",
        6000,
        "--threads 2, dramatiq_queue_prefetch=1000, no middleware but Retries",
        pushes=0,
        killed=0,
    ),
    Subject(
        "huey",
        "huey",
        "",
        3000,
        "one thread",
        redelivery="never: what was taken from the list is gone",
    ),
    Subject(
        "huey, 4 threads",
        "huey",
        "4",
        3000,
        "-w 4",
        pushes=0,
        killed=0,
    ),
    Subject(
        "Celery",
        "celery",
        "",
        800,
        "--pool prefork -c 1, prefetch multiplier 4, acks early, no results",
        pushes=500,
        redelivery="1 h: visibility_timeout; what was running is gone (acks early)",
        tuned="task_acks_late, task_reject_on_worker_lost, visibility_timeout 5",
    ),
    Subject(
        "Celery, 10 threads",
        "celery",
        "threads 10",
        1500,
        "--pool threads -c 10, prefetch multiplier 100, no gossip, mingle, heartbeat",
        pushes=0,
        killed=0,
    ),
    Subject(
        "Celery, gevent 100",
        "celery",
        "gevent 100",
        1500,
        "--pool gevent -c 100, prefetch multiplier 10, no gossip, mingle, heartbeat",
        pushes=0,
        killed=0,
    ),
    Subject(
        "taskiq-redis, stream",
        "taskiq",
        "",
        2000,
        "RedisStreamBroker (consumer_id 0), --workers 1, 100 tasks at a time, no results",
        pushes=500,
        redelivery="10 min: idle_timeout; looked for only when new items come",
        tuned="idle_timeout=5000, unacknowledged_lock_timeout=5",
        killed=2000,
    ),
    Subject(
        "taskiq-redis, list",
        "taskiq",
        "list",
        2000,
        "ListQueueBroker, --workers 1, 100 tasks at a time, no results",
        pushes=0,
        redelivery="never: what was taken from the list is gone",
        killed=2000,
    ),
    Subject(
        "streaq",
        "streaq",
        "",
        1500,
        "concurrency=16, results kept for 5 min",
        pushes=500,
        redelivery="60 s: idle_timeout",
        tuned="idle_timeout=5",
    ),
    Subject(
        "streaq, 100 tasks",
        "streaq",
        "best",
        2500,
        "concurrency=100, ttl=0, silent",
        pushes=0,
        killed=0,
    ),
    Subject(
        "ardiq",
        "ardiq",
        "",
        8000,
        "its defaults; results kept",
        redelivery="60 s: idle_timeout_ms",
        tuned="idle_timeout_ms=5000",
        killed=2000,
    ),
    Subject(
        "ardiq, 100 tasks",
        "ardiq",
        "best",
        12_000,
        "concurrency=100, prefetch=1000, result_ttl_ms=0",
        pushes=0,
        killed=0,
    ),
    Subject(
        "docket",
        "docket",
        "",
        800,
        "concurrency=10, state kept for 15 min",
        pushes=500,
        redelivery="5 min: redelivery_timeout",
        tuned="redelivery_timeout=5 s",
    ),
    Subject(
        "docket, 100 tasks",
        "docket",
        "best",
        1500,
        "concurrency=100, minimum_check_interval=10 ms, execution_ttl=0",
        pushes=0,
        killed=0,
    ),
    Subject(
        "BullMQ for Python",
        "bullmq",
        "",
        1000,
        "one job at a time; finished jobs kept",
        pushes=500,
        redelivery="30 s: lockDuration, stalledInterval",
        tuned="lockDuration=5000, stalledInterval=5000",
    ),
    Subject(
        "BullMQ for Python, 100 jobs",
        "bullmq",
        "best",
        2500,
        "concurrency=100, removeOnComplete",
        pushes=0,
        killed=0,
    ),
    Subject(
        "BullMQ for Node",
        "bullmq",
        "",
        3000,
        "one job at a time; finished jobs kept",
        NODE,
        redelivery="30 s: lockDuration, stalledInterval",
        tuned="lockDuration=5000, stalledInterval=5000",
    ),
    Subject(
        "BullMQ for Node, 100 jobs",
        "bullmq",
        "best",
        15_000,
        "concurrency=100, removeOnComplete",
        NODE,
        pushes=0,
        killed=0,
    ),
)
