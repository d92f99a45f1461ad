"""Weights of a Hugging Face folder as a GGUF file that llama.cpp serves.

Metadata (tokenizer, sizes) come from a template GGUF of the same model; the tensors and the chat template are the folder's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError

if TYPE_CHECKING:
    import numpy as np


CHAT = "tokenizer.chat_template"


@contextmanager
def plain_arrays() -> Iterator[None]:
    """Let gguf's reader parse plain arrays: slicing a np.memmap costs 5 times as much, 9 s for a vocabulary of 49,152."""
    import numpy as np

    mapped = np.memmap
    np.memmap = lambda *args, **kwargs: mapped(*args, **kwargs).view(np.ndarray)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        np.memmap = mapped  # type: ignore[misc]


def _tensors(folder: Path) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    """(name, float32 array) of every tensor, in name order, one at a time in memory."""
    import torch
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            for name in sorted(f.keys()):
                yield name, f.get_tensor(name).to(torch.float32).numpy()


def _rotary(x: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """llama.cpp's order of rotary pairs: [heads * d, in] rows interleaved instead of split in halves."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def _copy_metadata(reader: Any, writer: Any, chat: Path) -> None:
    """Give `writer` all metadata of `reader` but the architecture, which it has, the file type, and the chat template.

    That one comes from the file `chat`, where there is one.
    """
    import gguf

    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        sub_type = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
        value = chat.read_text("utf-8") if field.name == CHAT and chat.exists() else field.contents()
        writer.add_key_value(field.name, value, kinds[0], sub_type=sub_type)
    if CHAT not in reader.fields and chat.exists():
        writer.add_chat_template(chat.read_text("utf-8"))


def _llama_tensors(folder: Path, reader: Any, template: Path) -> "Iterator[tuple[str, np.ndarray[Any, Any]]]":
    """(name in GGUF, float32 array) of every tensor of a Llama. Raises UserError if they are not those of the template."""
    import gguf

    heads, kv_heads, blocks = (
        int(reader.fields[f"llama.{name}"].contents())
        for name in ("attention.head_count", "attention.head_count_kv", "block_count")
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, blocks)
    missing = {t.name for t in reader.tensors}
    expected = frozenset(missing)
    for name, array in _tensors(folder):
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None or target not in expected:
            raise UserError(f"{folder}: tensor {name} has no place in {template}; are they the same model?")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _rotary(array, heads if name.endswith("q_proj.weight") else kv_heads)
        missing.discard(target)
        yield target, array
    if missing := {n for n in missing if not n.startswith("rope_freqs")}:
        raise UserError(f"{folder}: lacks {len(missing)} tensors of {template}, for instance {min(missing)}")


def export(folder: Path, template: Path, out: Path, kind: str = "Q8_0") -> None:
    """Write the weights in `folder` to `out` with the metadata of `template`.

    Args:
        folder: Hugging Face folder of the Llama architecture (SmolLM2, Llama, Mistral).
        template: GGUF of the same model, any quantisation.
        kind: Q8_0, F16 or BF16, for all matrices; vectors stay float32.
    Raises:
        UserError: another architecture, or tensors the template does not have.
    """
    import gguf

    with plain_arrays():
        reader = gguf.GGUFReader(template)
    architecture = str(reader.fields["general.architecture"].contents())
    if architecture != "llama":
        raise UserError(f"{template}: GGUF export knows the llama architecture, not {architecture}; serve it by URL")
    writer = gguf.GGUFWriter(out, architecture)
    _copy_metadata(reader, writer, folder / "chat_template.jinja")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, array in _llama_tensors(folder, reader, template):
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantisation), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
