"""A crawler in asyncio: each page once, one visit at a time per host, and not too often.

    PYQUEUE_URL=embedded: python examples/crawler.py

It starts three little web servers of its own and crawls them from one page, so it needs no network.

- **Once**: a page's address is its dedupe key. Pushing it again changes nothing, whoever finds it.
- **One at a time**: a page's host is its group. Of a group one item is leased at a time, however
  many tasks, processes and machines there are.
- **Not too often**: the task keeps the item, and so the host, for a moment after the visit.
- **Later**: a server that answers 503 says when to come again. The item is released with that
  delay. No attempt is charged, and as the head of its group it keeps its host alone until then.
- **No page is forgotten**: what a page links to is pushed in the step that completes the page.
"""

import argparse
import asyncio
import http.server
import itertools
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urljoin, urlsplit

from pyqueue import AsyncLease, AsyncQueue, Message

TASKS = 10
PAGES = 7
DAY = 86400


async def crawl(queue: AsyncQueue, hosts: set[str], pause: float) -> None:
    """One of several tasks that do the same. All end when nothing is left for any of them."""
    async for lease in queue.drain(ttl=30):
        async with lease:
            await visit(lease, hosts, pause)


async def visit(lease: AsyncLease, hosts: set[str], pause: float) -> None:
    """Fetches a page, and pushes what it links to. An exception fails the item: it is tried again
    later, and is a dead letter after five attempts.
    """
    try:
        text = await asyncio.to_thread(fetch, lease.text)
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        seconds = float(error.headers["Retry-After"])
        print(f"{lease.text}: again in {seconds:g} s", flush=True)
        await lease.release(delay=seconds)
        return
    print(lease.text, flush=True)
    found = {urljoin(lease.text, link) for link in re.findall('href="([^"]+)"', text)}
    links = [link_to(url) for url in sorted(found) if urlsplit(url).netloc in hosts]
    await asyncio.sleep(pause)
    await lease.complete(push=links)


def link_to(url: str) -> Message:
    """What is pushed for a page. Its key is taken for a day, also after it was visited."""
    return Message(url, unique=url, unique_for=DAY, group=urlsplit(url).netloc)


def fetch(url: str) -> str:
    """Reads a page, in a thread."""
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - of our hosts only
        return str(reply.read(), "utf-8")


class Site(http.server.BaseHTTPRequestHandler):
    """Pages 0 to 6, a tree whose every page also links to the next host and back to page 0. Page 3
    is busy when it is asked for the first time.
    """

    neighbours: ClassVar[dict[str, str]] = {}
    #: (host, page, when) of each visit.
    visits: ClassVar[list[tuple[str, int, float]]] = []

    def do_GET(self) -> None:
        """Answers a request."""
        host, number = self.headers["Host"], int(self.path.strip("/"))
        is_first = (host, number) not in [visit[:2] for visit in self.visits]
        self.visits.append((host, number, time.monotonic()))
        if number == 3 and is_first:
            self.send_response(503)
            self.send_header("Retry-After", "0.5")
            self.end_headers()
            return
        pages = [page for page in (2 * number + 1, 2 * number + 2) if page < PAGES]
        links = ["/0", *(f"/{page}" for page in pages), f"http://{self.neighbours[host]}/{number}"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f'<a href="{link}">' for link in links).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


def serve(count: int) -> Sequence[http.server.ThreadingHTTPServer]:
    """Starts web servers, each a host of its own that links to the next."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) for _ in range(count)]
    hosts = [f"127.0.0.1:{server.server_port}" for server in servers]
    Site.neighbours |= dict(zip(hosts, hosts[1:] + hosts[:1], strict=True))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return servers


async def main(pause: float) -> None:
    """Crawls, and says what the servers have seen."""
    servers = serve(3)
    hosts = set(Site.neighbours)
    async with AsyncQueue("pages") as queue:
        await queue.push(link_to(f"http://{min(hosts)}/0"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TASKS):
                tasks.create_task(crawl(queue, hosts, pause))
        await queue.delete(force=True)  # with the keys, so that the next run begins anew
    for server in servers:
        server.shutdown()
        server.server_close()

    for host in sorted(hosts):
        times = [when for name, _, when in Site.visits if name == host]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        pages = len({page for name, page, _ in Site.visits if name == host})
        print(f"{host}: {pages} pages, {len(times)} visits, {min(gaps):.2f} s between two")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pause", type=float, default=0.2, help="between visits of a host")
    asyncio.run(main(parser.parse_args().pause))
