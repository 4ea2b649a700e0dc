"""An application: a ledger in SQLite that commits one entry after another and says so; run as a program of its own.

``python ledger.py write FILE FIRST`` prints ``NUMBER BEFORE AFTER`` after each commit, with the times around it, until
it is stopped or its disk fails.
``python ledger.py check FILE`` prints the number of entries, after SQLite has checked the whole file.
"""

from __future__ import annotations

import sqlite3
import sys
import time


def write(path: str, first: int) -> None:
    """Commit entries, each durable before it is said; FULL would leave the end of the journal undone for a moment."""
    ledger = sqlite3.connect(path, isolation_level=None)
    ledger.execute("PRAGMA synchronous = EXTRA")
    ledger.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, at REAL, text TEXT)")
    number = first
    while True:
        at = time.time()
        ledger.execute("INSERT INTO entry VALUES (?, ?, ?)", (number, at, f"entry {number} " * 20))
        print(number, at, time.time(), flush=True)
        number += 1


def check(path: str) -> None:
    """Every entry from 1 on is there, whole."""
    ledger = sqlite3.connect(path)
    (verdict,) = ledger.execute("PRAGMA integrity_check").fetchone()
    assert verdict == "ok", verdict
    numbers = [number for (number,) in ledger.execute("SELECT number FROM entry ORDER BY number")]
    assert numbers == list(range(1, len(numbers) + 1)), "entries are missing in between"
    for number, text in ledger.execute("SELECT number, text FROM entry"):
        assert text == f"entry {number} " * 20, number
    print(len(numbers))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
    else:
        check(sys.argv[2])
