"""SFT mixing: rows of other data among those of the pipeline, at given shares, to keep general ability.

Section `sft` names them: `mix: {tulu: 0.2}` reads tulu.jsonl in the folder that dvc.yaml gives (DVC cannot read a list of
files from params, but a folder is one dependency), and makes its rows 20 % of all training rows.
"""

from pathlib import Path

from stages.core.cli import UserError
from stages.core.files import Record, digest


def mixed(rows: list[Record], extra: dict[Path, list[Record]], mix: dict[str, float], seed: int) -> list[Record]:
    """`rows`, then of each file as many as make up its share of all.

    A row's place in the draw depends on `seed` and the row alone: a greater share, or more lines in a file, keeps the rows
    that were drawn and adds to them.

    Args:
        rows: of the pipeline.
        extra: usable rows by file; the file's stem is its name in `mix`.
    Raises:
        UserError: a file with fewer rows than its share needs, with the share it could fill.
    """
    room = 1 - sum(mix.values())
    total = len(rows) / room
    drawn = list(rows)
    for path, candidates in extra.items():
        share = mix[path.stem]
        need = round(share * total)
        if need > len(candidates):
            most = len(candidates) / (len(rows) + len(candidates)) * (room + share)
            raise UserError(
                f"{path}: sft.mix.{path.stem} = {share} needs {need} rows beside {len(rows)} of the pipeline, the file has "
                f"{len(candidates)} that fit; add rows or lower the share to {int(most * 1e4) / 1e4:g}"
            )
        drawn += sorted(candidates, key=lambda row: digest(seed, row))[:need]
    return drawn
