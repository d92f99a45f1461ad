"""What makes a trained model's folder one that others can use: its card, and knowing where a reply ends.

A card holds no time and no revision, so that the same run writes the same bytes; dvc.lock and git know the revision.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from stages.core.files import Record
from stages.weights.digest import GGUF, identity
from stages.weights.gguf import plain_arrays
from stages.weights.settings import Origin

PAPER = "2410.03642"
METHODS = {
    "sft": "supervised fine-tuning on the preferred replies, with the loss on the reply only",
    "dpo": "supervised fine-tuning on the preferred replies, then direct preference optimisation on pairs of replies",
}
LIBRARIES = ("trl", "transformers", "peft", "torch")
TEXT = """
# {title}

{base}, trained by {method}, as in Interaction-to-Align ([arXiv {paper}](https://arxiv.org/abs/{paper})): it is to find out
what its user is like from the conversation alone. Licence: {licence}.

## Use and limits

For research on models that adapt to their user within a conversation; it loads with `AutoModelForCausalLM.from_pretrained`.
Users, replies and preferences it learnt from were made by language models: not tested on people, nor for safety or truth.

## Data

{data}

## Held-out replies

{metrics}

## Settings

{settings}

## Origin

{inputs}

Made with {versions}. In the repository that made this folder, `git log -- dvc.lock` finds the revision.
"""


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
    from importlib.metadata import version

    from huggingface_hub import ModelCardData

    name, licence = about(base)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", origin.source) and not Path(origin.source).exists()
    head = ModelCardData(
        base_model=origin.source if on_hub else None,
        library_name="transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=["interaction-to-align", "personalization", "conversational", "trl", stage, f"arxiv:{PAPER}"],
    )
    source = f"`{origin.source}`" + (f" at revision `{origin.revision}`" if origin.revision else "")
    text = TEXT.format(
        title=f"{name or origin.source}, {stage.upper()}",
        base=f"{name} (from {source})" if name else source,
        method=METHODS[stage],
        paper=PAPER,
        licence=licence or "that of the base model, which its files do not name",
        data=_list(_leaves(data)),
        metrics=_table(metrics),
        settings=_list(_leaves(settings)),
        inputs=_list((str(path), f"sha256 {_digest(path)}") for path in inputs),
        versions=", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    )
    return f"---\n{head.to_yaml()}\n---\n{text}"


def about(base: Path) -> tuple[str | None, str | None]:
    """Name and licence of a base model, as its GGUF tells them; None where it does not."""
    if not (base / GGUF).exists():
        return None, None
    import gguf

    with plain_arrays():
        found = gguf.GGUFReader(base / GGUF).fields
    name, licence = (found[k].contents() if k in found else None for k in ("general.name", "general.license"))
    return name, licence


def end_tokens(model: Any, tokenizer: Any) -> None:
    """Make the generation config of `model` stop at the end of a reply, and pad.

    End tokens that the base already had stay (Llama 3 has several); the tokenizer's own, with which every reply was trained
    to end, is among them. Sampling values are left to whoever asks.
    """
    config = model.generation_config
    known = config.eos_token_id
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    if tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = tokenizer.pad_token_id


def _digest(path: Path) -> str:
    if path.is_dir():
        return identity(path)
    with path.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()


def _leaves(tree: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _list(pairs: Any) -> str:
    return "\n".join(f"- {key}: `{'none' if value in ('', None) else value}`" for key, value in pairs)


def _measures(tree: Record, prefix: str = "") -> Iterator[tuple[str, Record]]:
    for key, value in tree.items():
        if isinstance(value, dict) and "ci" in value:
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _measures(value, f"{prefix}{key}.")


def _table(metrics: Record) -> str:
    lines = ["| measure | value | 95 % interval |", "|---|---|---|"]
    for name, m in _measures(metrics):
        lines.append(f"| {name} | {m['value']:g} | {'{:g} to {:g}'.format(*m['ci']) if m['ci'] else '-'} |")
    return "\n".join(lines)
