"""Replies once paid for: an SQLite file under $DVC_ROOT/.cache shared by every run and process of the repository.

A reply is committed to disk before anyone uses it. A process that is about to make a call claims its key first, so two
processes never pay for the same reply; the claim of a process that died is void (its lock file is no longer locked).
"""

import asyncio
import contextlib
import fcntl
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from stages.core.cli import UserError
from stages.llm.reply import COUNTS

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies(
  key TEXT PRIMARY KEY, reply TEXT NOT NULL, stage TEXT, role TEXT, model TEXT, created REAL,
  prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims(key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS stored AFTER INSERT ON replies BEGIN DELETE FROM claims WHERE key = NEW.key; END;
"""
COLUMNS = ("key", "reply", "stage", "role", "model", "created", *COUNTS)
INSERT = "INSERT OR IGNORE INTO replies VALUES(?,?,?,?,?,?,?,?,?,?)"


class Cache:
    """Key -> reply (any JSON object). One instance a process; use it as a context manager.

    Raises:
        UserError: the file is not a cache, or the disk is full; nothing already stored is harmed.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "replies.sqlite"
        self._owners = folder / "owners"
        self._owners.mkdir(exist_ok=True)
        self.owner = uuid.uuid4().hex
        self._lock = (self._owners / self.owner).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            with (folder / "opening").open("w") as f:  # sqlite does not wait where two processes turn to WAL at once
                fcntl.flock(f, fcntl.LOCK_EX)
                self.db = self._connect()
                self.db.executescript(_SCHEMA)
                self._write_db = self._connect()  # its own, so that reads in the event loop never wait for a commit
        except sqlite3.Error as e:
            raise UserError(f"{self.path}: not a usable reply cache ({e}); move it away or restore it") from None
        self._waiting: list[tuple[str, tuple[Any, ...], asyncio.Future[int]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._committing = threading.Lock()  # a commit goes on in its thread when the run around it is cancelled

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")  # a power cut must not lose what was paid for either
        return db

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Store what is waiting for it, drop this process's claims and its lock."""
        waiting = [(sql, values) for sql, values, _ in self._waiting]
        with contextlib.suppress(sqlite3.Error):  # on a full disk; without the lock the claims are void all the same
            self._commit([*waiting, ("DELETE FROM claims WHERE owner=?", (self.owner,))])
        self.db.close()
        with self._committing:
            self._write_db.close()
        (self._owners / self.owner).unlink(missing_ok=True)
        self._lock.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored reply, or None."""
        row = self.db.execute("SELECT reply FROM replies WHERE key=?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def has(self, key: str) -> bool:
        """Whether a reply is stored under `key`."""
        return self.db.execute("SELECT 1 FROM replies WHERE key=?", (key,)).fetchone() is not None

    async def once(
        self, key: str, make: Callable[[], Awaitable[dict[str, Any]]], **about: Any
    ) -> tuple[dict[str, Any], bool]:
        """The reply under `key`, made by `make` if nobody has it yet, and whether it was stored before."""
        while True:
            stored = self.get(key)
            if stored is not None:
                return stored, True
            if await self._write("INSERT OR IGNORE INTO claims VALUES(?,?)", (key, self.owner)):
                break
            if not await self._steal(key):
                await asyncio.sleep(0.05)
        try:
            stored = self.get(key)  # the other process may have finished between the first `get` and the claim
            if stored is not None:
                return stored, True  # the claim goes with the process; on a stored key it keeps nobody waiting
            reply = await make()
            await self.put(key, reply, **about)  # drops the claim too: one commit less to wait for
            return reply, False
        except BaseException:
            await asyncio.shield(self._write("DELETE FROM claims WHERE key=? AND owner=?", (key, self.owner)))
            raise

    async def put(self, key: str, reply: dict[str, Any], **about: Any) -> None:
        """Store a reply; the one that is there already stays."""
        await self._write(INSERT, self._row(key, reply, about))

    @staticmethod
    def _row(key: str, reply: dict[str, Any], about: dict[str, Any]) -> tuple[Any, ...]:
        text = json.dumps(reply, ensure_ascii=False, sort_keys=True)
        return (key, text, *(about.get(n) for n in COLUMNS[2:5]), time.time(), *(reply.get(n) for n in COUNTS))

    def alive(self, owner: str) -> bool:
        """Whether the process that opened a cache as `owner` still runs."""
        if owner == self.owner:
            return True
        try:
            with (self._owners / owner).open() as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    async def _steal(self, key: str) -> bool:
        """Void the claim on `key` if its owner is dead."""
        row = self.db.execute("SELECT owner FROM claims WHERE key=?", (key,)).fetchone()
        if row is None or self.alive(row[0]):
            return False
        await self._write("DELETE FROM claims WHERE owner=?", (row[0],))
        (self._owners / row[0]).unlink(missing_ok=True)
        return True

    async def _write(self, sql: str, values: tuple[Any, ...]) -> int:
        """Queue one statement; returns its row count once it is committed. One commit serves all that wait."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((sql, values, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                counts = await asyncio.to_thread(self._commit, [(s, v) for s, v, _ in batch])
            except sqlite3.Error as e:
                error = UserError(f"{self.path}: a reply could not be stored ({e}); free disk space and run again")
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), n in zip(batch, counts, strict=True):
                if not future.done():
                    future.set_result(n)

    def _commit(self, statements: list[tuple[str, tuple[Any, ...]]]) -> list[int]:
        db = self._write_db
        with self._committing:
            db.execute("BEGIN IMMEDIATE")
            try:
                counts = [db.execute(sql, values).rowcount for sql, values in statements]
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return counts
