"""Celery. The variant: "" for a forked child, else a pool and its size: "gevent 100"."""

from __future__ import annotations

from .base import Settings, Subject, current

settings = Settings.read()
pool, _, size = (settings.variant or "prefork 1").partition(" ")
if pool == "gevent":
    from gevent import monkey

    monkey.patch_all()

from celery import Celery  # noqa: E402 - what gevent replaces must not be imported before

app = Celery("bench", broker=settings.url)
app.conf.task_default_queue = settings.queue
app.conf.broker_connection_retry_on_startup = True
if settings.variant:
    app.conf.worker_prefetch_multiplier = 1000 // int(size)
if settings.tuned:
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.broker_transport_options = {"visibility_timeout": 5}


@app.task(name="task", ignore_result=True)
def task(payload: str) -> None:
    """The job."""
    current()(payload)


class CelerySubject(Subject):
    """A task is a call of a function; no result is kept."""

    packages = ("celery", "kombu", "redis", "hiredis")

    def push(self, items: list[str]) -> None:
        for item in items:
            task.delay(item)

    def work(self) -> None:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        app.worker_main(
            [
                *("worker", "--loglevel=WARNING", f"--pool={pool}", f"--concurrency={size}"),
                *(quiet if settings.variant else []),
            ]
        )


SUBJECT = CelerySubject
