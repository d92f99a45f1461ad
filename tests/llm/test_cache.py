"""The reply cache: processes that share it, processes that are killed, disks that fill up."""

import asyncio
import errno
import fcntl
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from calls import ask, run
from conftest import ROOT

from stages.core.cli import UserError
from stages.llm.cache import Cache

WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
async def main():
    with Cache(Path(sys.argv[1])) as cache:
        async def one(n):
            async def make():
                print(n, flush=True)
                await asyncio.sleep(0.01)
                return {"text": str(n)}
            return await cache.once(f"k{n}", make)
        for start in range(0, 200, 20):
            await asyncio.gather(*(one(n) for n in range(start, start + 20)))
asyncio.run(main())
"""


def start_writer(folder):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(ROOT)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_never_make_the_same_call(tmp_path):
    writers = [start_writer(tmp_path / "c") for _ in range(2)]
    made = [line for w in writers for line in w.communicate()[0].split()]
    assert all(w.returncode == 0 for w in writers)
    assert sorted(map(int, made)) == list(range(200))


@pytest.mark.slow
def test_a_killed_process_loses_the_calls_in_flight_and_blocks_nobody(tmp_path):
    writer = start_writer(tmp_path / "c")
    seen = []
    for line in writer.stdout:
        seen.append(int(line))
        if len(seen) == 90:
            writer.send_signal(signal.SIGKILL)
            break
    seen += [int(x) for x in writer.stdout.read().split()]
    writer.wait()
    with Cache(tmp_path / "c") as cache:
        kept = {n for n in range(200) if cache.has(f"k{n}")}
    again = start_writer(tmp_path / "c")
    made = {int(x) for x in again.communicate()[0].split()}
    assert again.returncode == 0 and made == set(range(200)) - kept
    assert len(set(seen) - kept) <= 20 and kept


def test_full_disk_is_one_clear_error_and_harms_nothing(tmp_path):
    async def work():
        with Cache(tmp_path / "c") as cache:

            async def make():
                return {"text": "x" * 100_000}

            assert (await cache.once("small", make))[1] is False
            pages = cache._write_db.execute("PRAGMA page_count").fetchone()[0]
            cache._write_db.execute(f"PRAGMA max_page_count={pages + 1}")
            with pytest.raises(UserError, match="could not be stored"):
                await cache.once("more", make)

    asyncio.run(work())
    with Cache(tmp_path / "c") as cache:
        assert cache.has("small") and not cache.has("more")


def test_a_file_that_is_no_cache(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/replies.sqlite").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(UserError, match="not a usable reply cache"):
        Cache(tmp_path / "c")


def test_one_statement_that_fails_loses_no_other_and_nobody_waits_for_ever(tmp_path):
    async def work():
        with Cache(tmp_path / "c") as cache:

            async def make(text):
                return {"text": text}

            asked = (cache.once(f"k{n}", lambda n=n: make("half \ud83d" if n == 3 else "whole")) for n in range(8))
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)

    found = asyncio.run(work())
    assert isinstance(found.pop(3), UserError) and found == [({"text": "whole"}, False)] * 7
    with Cache(tmp_path / "c") as cache:
        assert sum(cache.has(f"k{n}") for n in range(8)) == 7


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), ValueError("y")])
def test_whatever_the_writer_meets_settles_those_who_wait(tmp_path, monkeypatch, error):
    async def work():
        with Cache(tmp_path / "c") as cache:
            monkeypatch.setattr(cache, "_commit", lambda statements: (_ for _ in ()).throw(error))
            with pytest.raises(UserError, match="could not be stored"):
                await asyncio.wait_for(cache.put("k", {"text": "x"}), 30)

    asyncio.run(work())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_one_line_that_says_where_to_go(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"No locks available\): locks do not work there.*NFS.*set llm.cache"):
        Cache(tmp_path / "c")


@pytest.mark.parametrize(
    "said, advice",
    [
        ("locking protocol", "set llm.cache"),
        ("disk I/O error", "set llm.cache"),
        ("database is locked", "another process writes"),
        ("attempt to write a readonly database", "set llm.cache"),
        ("file is not a database", "move it away or restore it"),
        ("database or disk is full", "free disk space"),
    ],
)
def test_advice_is_by_what_is_wrong(tmp_path, monkeypatch, said, advice):
    def connect(*_):
        raise sqlite3.OperationalError(said)

    monkeypatch.setattr(Cache, "_connect", connect)
    with pytest.raises(UserError, match=advice) as e:
        Cache(tmp_path / "c")
    assert said in str(e.value) and ("move it away" in str(e.value)) == (said == "file is not a database")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"not usable for the reply cache .*set llm\.cache"):
        Cache(tmp_path / "file/c")


def test_the_cache_may_lie_elsewhere(tmp_path, monkeypatch, server):
    elsewhere = tmp_path / "disk/replies"
    run(server, ask, llm={"cache": str(elsewhere)})
    assert (elsewhere / "replies.sqlite").exists() and not (tmp_path / ".cache").exists()
    run(server, ask, llm={"cache": "disk/replies"})  # in the repository that DVC runs for
    assert len(server.requests) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    run(server, ask, llm={"cache": "~/disk/replies"})
    assert len(server.requests) == 1


HOLDER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
async def main():
    with Cache(Path(sys.argv[1])) as cache:
        async def make():
            print("makes", flush=True)
            return {"text": await asyncio.to_thread(sys.stdin.readline)}
        print("asks", flush=True)
        print(await cache.once("k", make), flush=True)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["answered", "killed"])
def test_a_call_another_process_is_making_is_waited_for_and_made_again_only_if_that_process_dies(tmp_path, end):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "c"), str(ROOT)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert [first.stdout.readline(), first.stdout.readline()] == ["asks\n", "makes\n"]
    second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(30, second.kill)  # rather than wait for ever
    watchdog.start()
    assert second.stdout.readline() == "asks\n"
    time.sleep(0.5)  # room for it to make the call, which it must not while the first one lives
    if end == "killed":
        first.kill()
        assert second.stdout.readline() == "makes\n"
        assert "theirs" in second.communicate("theirs\n")[0]
    else:
        assert "'ours\\n'}, False" in first.communicate("ours\n")[0]
        assert second.communicate()[0] == "({'text': 'ours\\n'}, True)\n"
    first.communicate()
    watchdog.cancel()


CLOSER = """
import asyncio, sqlite3, sys, threading
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from stages.llm.cache import Cache
folder = Path(sys.argv[1])
async def main(key):
    cache = Cache(folder)
    other = sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)
    async def make():
        other.execute("BEGIN IMMEDIATE")  # nobody else can store anything for a while
        threading.Timer(0.3, other.execute, ["COMMIT"]).start()
        return {"text": "x"}
    asks = asyncio.create_task(cache.once(key, make))
    while not other.in_transaction:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the reply is being stored
    asks.cancel()
    cache.close()
for key in "abcdef":
    asyncio.run(main(key))
with Cache(folder) as cache:
    print([cache.has(key) for key in "abcdef"])
"""


@pytest.mark.slow
def test_a_reply_that_is_being_stored_when_the_run_ends_is_stored(tmp_path):
    command = [sys.executable, "-c", CLOSER, str(tmp_path / "c"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{[True] * 6}\n", "")
