"""A table that late workers cannot overwrite: fencing with `lease.token`.

An item is the name of an account. The work: add up its entries, which takes a while, and store the
sum. A worker that was away for longer than its lease comes back with a sum that is out of date; the
token of its lease is older than the one in the row, so the database refuses it.

    export PYQUEUE_URL=embedded:
    python examples/fenced_table.py enter accounts.sqlite anna 100
    python examples/fenced_table.py work accounts.sqlite --seconds 5

Press Ctrl-Z while it adds up, and in another terminal:

    python examples/fenced_table.py enter accounts.sqlite anna 42
    python examples/fenced_table.py work accounts.sqlite

This one does both items, the new one and that of the stopped worker. Now bring the first worker
back with `fg`: it is too late, and says so. `show` prints what is in the table.
"""

import argparse
import sqlite3
import time
from pathlib import Path

from pyqueue import Lease, LeaseLost, Queue

QUEUE = "accounts"
TABLES = """
CREATE TABLE IF NOT EXISTS entries (account TEXT, amount INTEGER);
CREATE TABLE IF NOT EXISTS sums (
    account TEXT PRIMARY KEY,
    sum INTEGER,
    token INTEGER  -- of the lease under which it was written
);
"""


def enter(db: sqlite3.Connection, queue: Queue, account: str, amount: int) -> None:
    """Enters an amount, and asks for the sum."""
    with db:
        db.execute("INSERT INTO entries VALUES (?, ?)", (account, amount))
    queue.push(account)


def store(db: sqlite3.Connection, account: str, total: int, token: int) -> bool:
    """Stores a sum unless a later lease has stored one; returns whether it did.

    The comparison and the write are one statement: between two of them there would be time to be
    late in.
    """
    with db:
        done = db.execute(
            """INSERT INTO sums VALUES (:account, :total, :token)
               ON CONFLICT (account) DO UPDATE SET sum = :total, token = :token
               WHERE token < :token""",
            {"account": account, "total": total, "token": token},
        )
    return done.rowcount == 1


def add_up(db: sqlite3.Connection, lease: Lease, seconds: float) -> None:
    """Does an item."""
    account = lease.text
    (total,) = db.execute(
        "SELECT sum(amount) FROM entries WHERE account = ?", (account,)
    ).fetchone()
    print(f"{account}: adding up", flush=True)
    time.sleep(seconds)
    if store(db, account, total, lease.token):
        print(f"{account}: {total}", flush=True)
    else:
        print(f"{account}: too late with {total}, nothing is overwritten", flush=True)


def work(db: sqlite3.Connection, queue: Queue, ttl: float, seconds: float) -> None:
    """Works until nothing is left."""
    while not (batch := queue.lease_many(1, ttl, wait=2)).drained:
        for lease in batch:
            try:
                with lease:
                    add_up(db, lease, seconds)
            except LeaseLost:
                # Another worker has the item, or has done it: there is nothing to undo, since the
                # table has seen to that.
                print(f"{lease.text}: the lease was lost", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["enter", "work", "show"])
    parser.add_argument("database", type=Path)
    parser.add_argument("account", nargs="?")
    parser.add_argument("amount", nargs="?", type=int)
    parser.add_argument("--ttl", type=float, default=10, help="how long a lease lasts, seconds")
    parser.add_argument("--seconds", type=float, default=0, help="how long adding up takes")
    args = parser.parse_args()
    db = sqlite3.connect(args.database)
    db.executescript(TABLES)
    queue = Queue(QUEUE)
    if args.command == "work":
        work(db, queue, args.ttl, args.seconds)
    elif args.command == "show":
        for account, total, token in db.execute("SELECT * FROM sums ORDER BY account"):
            print(f"{account}: {total} (token {token})")
    elif args.account is None or args.amount is None:
        parser.error("enter wants an account and an amount")
    else:
        enter(db, queue, args.account, args.amount)


if __name__ == "__main__":
    main()
