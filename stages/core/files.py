"""Files of records: JSON Lines in, JSON Lines out, written whole or not at all."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from stages.core.cli import UserError

Record = dict[str, Any]
_SURROGATE = re.compile("[\ud800-\udfff]")


def digest(*parts: object) -> str:
    """SHA-256 over the JSON of `parts`, in hex: the one way identities and seeds are derived."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def seed_of(*parts: object) -> int:
    """A 31-bit seed from what a draw belongs to (stage seed, persona, path, role), never from its position."""
    return int(digest(*parts)[:8], 16) & 0x7FFFFFFF


def root() -> Path:
    """`.cache` of the repository that DVC runs for (the parent one in `--temp` and `--queue` runs)."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache"


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open `path` for writing; the old content stays until the new one is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}; what was there is untouched") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[Record]) -> None:
    """One sorted-key JSON object a line, final newline."""
    with replacing(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


def write_json(path: Path, value: Any) -> None:
    """Sorted-key, indented JSON with a final newline (small result files that people read in git)."""
    with replacing(path) as f:
        f.write(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2) + "\n")


def read_text(path: Path) -> str:
    """Text of a UTF-8 file (a byte order mark is dropped)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 at byte {e.start}; save it as UTF-8") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None


def _writable(value: Any) -> Any:
    """A JSON value with U+FFFD for every lone surrogate, which JSON can write (`"\\ud83d"`) and UTF-8 cannot."""
    return json.loads(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of every non-empty line. Lone surrogates are replaced.

    Raises:
        UserError: file:line of a broken line.
    """
    decoder = json.JSONDecoder()
    # split("\n"), not splitlines(): U+2028 and its like are legal inside a JSON string
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        text = line.strip()
        if not text:
            continue
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError as e:
            raise UserError(f"{path}:{number}: not JSON ({e.msg} at column {e.colno}): {text[:60]}") from None
        if text[end:].strip():
            raise UserError(f"{path}:{number}: two JSON values on one line; put a line break after column {end}")
        yield number, _writable(value) if "\\ud" in text.lower() else value


def read_objects(path: Path) -> Iterator[tuple[int, Record]]:
    """(line number, row) of a JSONL file of objects. Raises UserError naming file:line for anything else."""
    for number, value in read_lines(path):
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, value


def jsonl_files(*paths: Path) -> list[Path]:
    """The files themselves, and of folders their *.jsonl by name, in the order given; a folder may hold none."""
    return [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]


def read_jsonl(path: Path) -> list[Record]:
    """All rows of a JSONL file of objects. Raises UserError as `read_objects`."""
    return [row for _, row in read_objects(path)]
