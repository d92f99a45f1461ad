"""The card of a trained model (README.md of its folder).

It holds no time and no revision, so that the same run writes the same bytes; dvc.lock and git know the revision.
"""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.core.files import Record, read_text
from stages.core.params import flat
from stages.weights.digest import GGUF, identity, of_file
from stages.weights.gguf import plain_arrays
from stages.weights.settings import Origin

PAPER = "2410.03642"
METHODS = {
    "sft": "supervised fine-tuning on the preferred replies, with the loss on the reply only",
    "dpo": "supervised fine-tuning on the preferred replies, then direct preference optimisation on pairs of replies",
    "dpo of base": "direct preference optimisation on pairs of replies",
}
LIBRARIES = ("trl", "transformers", "peft", "torch")
TEMPLATE = Path(__file__).with_name("card.md.j2")


def card(
    stage: str, base: Path, origin: Origin, inputs: Sequence[Path], settings: Record, data: Record, metrics: Record
) -> str:
    """README.md of a trained model.

    Args:
        stage: sft or dpo.
        base: folder of the base model.
        inputs: files and model folders that were read, to be named by their SHA-256.
        settings: values the stage declares, by key.
        data: counts of rows.
        metrics: on held-out rows; every {"value", "ci"} in it becomes a line.
    """
    from huggingface_hub import ModelCardData

    name, licence = about(base)
    values = dict(flat(settings))
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", origin.source) and not Path(origin.source).exists()
    head = ModelCardData(
        base_model=origin.source if on_hub else None,
        library_name="transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=["interaction-to-align", "personalization", "conversational", "trl", stage, f"arxiv:{PAPER}"],
    )
    return filled(
        TEMPLATE,
        head=head.to_yaml(),
        name=name,
        licence=licence,
        stage=stage,
        origin=origin,
        method=METHODS["dpo of base" if values.get("dpo.start") == "base" else stage],
        paper=PAPER,
        data=sorted(flat(data)),
        metrics=_table(metrics),
        settings=sorted(values.items()),
        inputs=[(path, identity(path) if path.is_dir() else of_file(path)) for path in inputs],
        versions=", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    )


def filled(template: Path, **values: Any) -> str:
    """The Jinja template filled. Raises jinja2.UndefinedError for a value that it names and does not get."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(read_text(template))
    return page.render(**values)


def about(base: Path) -> tuple[str | None, str | None]:
    """Name and licence of a base model, as its GGUF tells them; None where it does not."""
    if not (base / GGUF).exists():
        return None, None
    import gguf

    with plain_arrays():
        found = gguf.GGUFReader(base / GGUF).fields
    name, licence = (found[k].contents() if k in found else None for k in ("general.name", "general.license"))
    return name, licence


def _table(metrics: Record) -> str:
    """Markdown table of every {"value", "ci"} in `metrics`, by dotted key."""
    from tabulate import tabulate

    leaves: dict[str, Any] = dict(flat(metrics))
    rows = []
    for key in (leaf.removesuffix(".value") for leaf in leaves if leaf.endswith(".value")):
        low_high = leaves[f"{key}.ci"]
        rows.append([key, f"{leaves[f'{key}.value']:g}", "{:g} to {:g}".format(*low_high) if low_high else "-"])
    return tabulate(rows, ["measure", "value", "95 % interval"], tablefmt="pipe", disable_numparse=True)
