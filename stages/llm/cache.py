"""Replies once paid for: an SQLite file in $DVC_ROOT/.cache, or in `llm.cache`, shared by every run and process.

A reply is committed to disk before anyone uses it. A process that is about to make a call claims its key first, so two
processes never pay for the same reply; the claim of a process that died is void (its lock file is no longer locked).
"""

import asyncio
import errno
import fcntl
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, one_line
from stages.core.files import root
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


_ELSEWHERE = "set llm.cache in params.yaml to a folder"
_LOCKS = f"locks do not work there, as on some NFS and Lustre mounts; {_ELSEWHERE} on a disk of this machine"
_ADVICE = (  # by what SQLite says
    ("full", "free disk space and run again"),
    ("readonly", f"it cannot be written; {_ELSEWHERE} of yours"),
    ("unable to open", f"it cannot be opened; {_ELSEWHERE} of yours"),
    ("not a database", "move it away or restore it"),
    ("malformed", "move it away or restore it"),
    ("i/o error", f"free disk space and run again; if there is some, {_LOCKS}"),
    ("locking protocol", _LOCKS),
    ("is locked", f"another process writes to it for over a minute, or {_LOCKS}"),
)


def folder_of(setting: str) -> Path:
    """Folder of the stored replies. `setting`: llm.cache; what is not absolute lies in the repository that DVC runs for."""
    return root().parent / Path(setting).expanduser() if setting else root()


def advice(error: BaseException) -> str:
    """What to do about an error of the cache's file or of its locks."""
    text = str(error).lower()
    return next((said for words, said in _ADVICE if words in text), "run again; what is stored stays")


class Cache:
    """Key -> reply (any JSON object). One instance a process; use it as a context manager.

    Raises:
        UserError: the file is no cache, the folder cannot be locked, or the disk is full; nothing already stored is harmed.
    """

    def __init__(self, folder: Path):
        self.path = folder / "replies.sqlite"
        self._owners = folder / "owners"
        self.owner = uuid.uuid4().hex
        try:
            self._owners.mkdir(parents=True, exist_ok=True)
            self._lock = (self._owners / self.owner).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            with (folder / "opening").open("w") as f:  # sqlite does not wait where two processes turn to WAL at once
                fcntl.flock(f, fcntl.LOCK_EX)
                self.db = self._connect()
                self.db.executescript(_SCHEMA)
                self._write_db = self._connect()  # its own, so that reads in the event loop never wait for a commit
        except sqlite3.Error as e:
            raise UserError(f"{self.path}: not a usable reply cache ({e}): {advice(e)}") from None
        except OSError as e:
            no_locks = e.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO)
            found = _LOCKS if no_locks else f"{_ELSEWHERE} of yours"
            raise UserError(f"{folder}: not usable for the reply cache ({e.strerror}): {found}") from None
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
        # what fails, as on a full disk, is lost; without the lock the claims are void all the same
        self._stored([*waiting, ("DELETE FROM claims WHERE owner=?", (self.owner,))])
        self.db.close()
        with self._committing:
            self._write_db.close()
        (self._owners / self.owner).unlink(missing_ok=True)
        self._lock.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored reply, or None."""
        try:
            row = self.db.execute("SELECT reply FROM replies WHERE key=?", (key,)).fetchone()
        except sqlite3.Error as e:
            raise UserError(f"{self.path}: cannot be read ({e}): {advice(e)}") from None
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
                counts: list[int | Exception] = await asyncio.to_thread(self._stored, [(s, v) for s, v, _ in batch])
            except BaseException:  # the run is over; nobody may wait for ever
                for _, _, future in batch:
                    future.cancel()
                raise
            for (_, _, future), n in zip(batch, counts, strict=True):
                if future.done():
                    continue
                if isinstance(n, Exception):
                    what = f"a reply could not be stored ({one_line(n)})"
                    future.set_exception(UserError(f"{self.path}: {what}: {advice(n)}"))
                else:
                    future.set_result(n)

    def _stored(self, statements: list[tuple[str, tuple[Any, ...]]]) -> list[int | Exception]:
        """Row count of each statement once it is committed, or its error. One that fails does not lose the others."""
        try:
            return [*self._commit(statements)]
        except Exception as e:
            return [e] if len(statements) == 1 else [result for one in statements for result in self._stored([one])]

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
