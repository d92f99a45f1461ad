"""What people do with the reply cache: see what it holds and saved, drop old replies, share them as a file.

Run: python -m stages.tools.replies size | prune --days N | export FILE.jsonl.gz | import FILE.jsonl.gz
"""

import gzip
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from stages.core.cli import UserError, parser, run
from stages.core.params import UNTRACKED, load_yaml
from stages.core.tables import text
from stages.llm.cache import COLUMNS, INSERT, Cache, folder_of


def size(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """(stage, role, model, replies, completion tokens, USD) of what is stored; USD is None where a part is unknown."""
    return db.execute(
        "SELECT stage, role, model, COUNT(*), SUM(completion_tokens), "
        "CASE WHEN COUNT(cost_usd)=COUNT(*) THEN SUM(cost_usd) END FROM replies GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    ).fetchall()


def prune(db: sqlite3.Connection, days: float) -> int:
    """Drop replies stored more than `days` ago; returns how many. Raises UserError for a time to come, which drops all."""
    if not days >= 0:
        raise UserError(f"--days {days:g}: must be 0 or more, the age from which on replies are dropped")
    dropped = db.execute("DELETE FROM replies WHERE created < ?", (time.time() - 86400 * days,)).rowcount
    db.execute("VACUUM")
    return dropped


def export(db: sqlite3.Connection, path: Path) -> int:
    """Write every reply to a gzipped JSON Lines file (there is no key and no address in it); returns how many."""
    rows = db.execute(f"SELECT {', '.join(COLUMNS)} FROM replies ORDER BY key").fetchall()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # no file name and no time in the header: the same replies give the same bytes
        with temporary.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as f:
            for row in rows:
                f.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False).encode() + b"\n")
        temporary.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def merge(db: sqlite3.Connection, path: Path) -> int:
    """Take over the replies of an exported file that are not here yet, all or none; returns how many."""
    rows: list[tuple[Any, ...]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as f:
            for line in f:
                row = json.loads(line)
                json.loads(row["reply"])["text"]
                rows.append(tuple(row[c] for c in COLUMNS))
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as e:
        raise UserError(f"{path}:{len(rows) + 1}: not a row of an exported reply cache ({e!r})") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None
    db.execute("BEGIN IMMEDIATE")
    new = sum(db.execute(INSERT, row).rowcount for row in rows)
    db.execute("COMMIT")
    return new


def main() -> None:
    p = parser(__doc__)
    verbs = p.add_subparsers(dest="verb", required=True)
    verbs.add_parser("size", help="what is stored and what it cost, by stage, role and model")
    verbs.add_parser("prune", help="drop old replies").add_argument("--days", type=float, required=True)
    for verb in ("export", "import"):
        verbs.add_parser(verb, help="share replies as a file").add_argument("file", type=Path)
    a = p.parse_args()
    params = load_yaml("params.yaml") if Path("params.yaml").exists() else {}
    with Cache(folder_of(str((params.get(UNTRACKED) or {}).get("cache") or ""))) as cache:
        if a.verb == "size":
            found, megabytes = size(cache.db), cache.path.stat().st_size / 1e6
            costs = ["cost unknown" if row[5] is None else f"{row[5]:.4f} USD" for row in found]
            lines = [[*(str(v or 0)[:24] for v in row[:5]), cost] for row, cost in zip(found, costs, strict=True)]
            print(text([["stage", "role", "model", "replies", "completion tokens", "cost"], *lines], left=3))
            known, stored = sum(row[5] or 0 for row in found), sum(row[3] for row in found)
            print(f"{cache.path}: {stored} replies, {megabytes:.1f} MB, {known:.4f} USD not to be paid again")
        elif a.verb == "prune":
            print(f"{prune(cache.db, a.days)} replies dropped")
        elif a.verb == "export":
            print(f"{export(cache.db, a.file)} replies written to {a.file}")
        else:
            print(f"{merge(cache.db, a.file)} new replies from {a.file}")


if __name__ == "__main__":
    run(main)
