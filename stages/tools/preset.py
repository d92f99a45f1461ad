"""Presets: presets/NAME.yaml holds what of params.yaml another setting changes, and nothing else.

Run: dvc exp run --name paper $(python -m stages.tools.preset paper)

It prints the overrides as words for `dvc exp run` (`-S key=value`), in Hydra's grammar, which is what DVC reads. The words
hold no blanks, as a shell splits what `$(...)` gives at blanks and does not look at quotes. Of a preset with a fault it
prints a word that DVC refuses, beside the error: `dvc exp run` would start the default otherwise.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from stages.core import params
from stages.core.cli import UserError, one_line, parser, run
from stages.tools import check

FOLDER = Path("presets")
_KEY = re.compile(r"[\w-]+")


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the preset's overrides, nested; params.yaml with them applied).

    Raises:
        UserError: there is no such preset, or it names what params.yaml lacks or cannot take: all faults in one line.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml"))) or "none here; run from the root of the repository"
        raise UserError(f"preset {name!r}: no such file {path}; presets are: {known}")
    given = params.load_yaml(str(path))
    if not isinstance(given, dict):
        raise UserError(f"{path}: expected a mapping of params, found {given!r}")
    overrides = nested(given)
    try:
        whole = OmegaConf.to_container(OmegaConf.merge(params.load_yaml("params.yaml"), overrides), resolve=False)
    except OmegaConfBaseException as e:  # a list in place of a mapping
        raise UserError(f"{path}: {one_line(e)}") from None
    assert isinstance(whole, dict)
    if faults := check.check(whole):  # type: ignore[arg-type]
        raise UserError(f"{path}: {'; '.join(faults)}")
    return overrides, whole  # type: ignore[return-value]


def nested(given: dict[str, Any]) -> dict[str, Any]:
    """A mapping whose dotted top-level keys (`sft.epochs: 1`) are opened up; the values below them are left alone."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        inner = found
        *before, last = str(key).split(".")
        for part in before:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"preset: {key} is given beside a value for {part}")
        if isinstance(value, dict) and isinstance(inner.get(last), dict):
            inner[last].update(value)
        else:
            inner[last] = value
    return found


def spread(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; a mapping one of whose keys has no place in a dotted name (`gpt-4.1`) is a leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and all(isinstance(k, str) and _KEY.fullmatch(k) for k in value):
            yield from spread(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def spelled(value: Any) -> str:
    """A value in Hydra's grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    return str(QuotedString(value, Quote.single).with_quotes())


def words(name: str) -> list[str]:
    """The words for `dvc exp run`: `-S`, `key=value`, `-S`, ... Raises UserError for what the words cannot carry."""
    overrides, _ = load(name)
    known = dict(spread(params.load_yaml("params.yaml")))
    found = []
    for key, value in spread(overrides):
        word = f"{'' if key in known and not isinstance(value, dict) else '++'}{key}={spelled(value)}"
        if re.search(r"[\s*?]|\$\{", word):
            raise UserError(f"{FOLDER / name}.yaml: {key}: {value!r} holds a blank, *, ? or ${{; no shell hands that on")
        found += ["-S", word]
    return found


@contextmanager
def applied(name: str | None, changes: Sequence[str] = ()) -> Iterator[None]:
    """A folder that is this repository with other params, as the current one; nothing of the repository changes.

    Args:
        name: of the preset whose params it has; None: those of params.yaml.
        changes: to them, `key=value` as `dvc exp run -S` takes them, without sweeps.
    Raises:
        UserError: a change that DVC or params.yaml would not take.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from omegaconf import OmegaConf

    whole = load(name)[1] if name else params.load_yaml("params.yaml")
    here, before = Path.cwd(), check.check(whole)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / ".dvc").mkdir()
        for entry in [*here.iterdir(), *(here / ".dvc").iterdir()]:
            if entry.name not in ("params.yaml", ".dvc", ".git", "tmp"):
                (scratch / entry.relative_to(here)).symlink_to(entry)
        OmegaConf.save(OmegaConf.create(whole), scratch / "params.yaml")
        # DVC_ROOT: where the stored replies are; DVC_SITE_CACHE_DIR: DVC keeps a folder there for every path that it sees
        own = {"DVC_ROOT": os.environ.get("DVC_ROOT", str(here)), "DVC_SITE_CACHE_DIR": str(scratch / ".dvc/site")}
        with chdir(scratch), patch.dict(os.environ, own):
            try:
                apply_overrides("params.yaml", list(changes))
            except DvcException as e:
                said = one_line(e.__cause__ or e)
                unknown = re.match(r"Could not override '([\w.]+)'", said)
                nearest = params.near(unknown[1], dict(spread(whole))) if unknown else ""
                raise UserError(f"-S {' '.join(changes)}: {said}{nearest}") from None
            if faults := [fault for fault in check.check() if fault not in before]:
                raise UserError(f"-S {' '.join(changes)}: {'; '.join(faults)}")
            yield


def main() -> None:
    a = parser(__doc__)
    a.add_argument("name", help="presets/NAME.yaml")
    name = a.parse_args().name
    try:
        print(" ".join(words(name)))
    except UserError:
        print("-S no_usable_preset=none")
        raise


if __name__ == "__main__":
    run(main)
