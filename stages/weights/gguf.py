"""Weights of a Hugging Face folder as a GGUF file that llama.cpp serves.

Metadata (tokenizer, sizes) come from a template GGUF of the same model; the tensors and the chat template are the folder's.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.cli import UserError

if TYPE_CHECKING:
    import numpy as np


CHAT = "tokenizer.chat_template"
NONE = "set base_model.gguf and train.gguf to none, and transformers serve serves the folder"


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


def _undone(array: "np.ndarray[Any, Any]", name: str, shape: tuple[int, ...], processor: Any) -> "np.ndarray[Any, Any]":
    """`array` of `shape`, with what transformers does to the tensor `name` when it reads a GGUF undone.

    transformers has such a step for each architecture (`TENSOR_PROCESSORS`), but not its inverse. A step puts the values in
    another order and adds a constant; what it makes of zeros and of numbers tells both.

    Raises:
        ValueError: it does something else.
    """
    import numpy as np

    def read(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return np.asarray(processor.process(values, name=name, parsed_parameters={"tensors": {}}).weights)

    zeros = np.broadcast_to(np.float32(0), shape)
    if (of_zeros := read(zeros)) is zeros:
        return array.reshape(shape)
    added = of_zeros.flat[0]
    order = (read(np.arange(array.size, dtype=np.float64).reshape(shape)) - added).ravel()
    if not np.array_equal(np.sort(order), np.arange(array.size)):
        raise ValueError("it is changed by more than its order and a constant")
    made = np.empty(array.size, np.float32)
    made[order.astype(np.int64)] = array.ravel() - added
    return made.reshape(shape)


def _named_tensors(folder: Path, reader: Any, template: Path) -> "Iterator[tuple[str, np.ndarray[Any, Any]]]":
    """(name in GGUF, float32 array as llama.cpp has it) of every tensor.

    Raises:
        UserError: transformers reads no GGUF of this architecture; tensors that are not those of the template.
    """
    import gguf
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES, TENSOR_PROCESSORS, TensorProcessor

    architecture = str(reader.fields["general.architecture"].contents())
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items() if name in GGUF_SUPPORTED_ARCHITECTURES}
    if architecture not in known:
        raise UserError(f"{template}: transformers reads no GGUF of architecture {architecture}; {NONE}")
    names = gguf.get_tensor_name_map(known[architecture], int(reader.fields[f"{architecture}.block_count"].contents()))
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(AutoConfig.from_pretrained(folder).to_dict())
    expected = {t.name: tuple(map(int, reversed(t.shape))) for t in reader.tensors}
    missing = {name for name in expected if not name.startswith("rope_freqs")}
    for name, array in _tensors(folder):
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None or target not in expected or array.size != math.prod(expected[target]):
            raise UserError(f"{folder}: tensor {name} has no place in {template}; are they the same model?")
        try:
            array = _undone(array, target, expected[target], processor)
        except ValueError as e:
            raise UserError(f"{folder}: tensor {name} cannot be written as {architecture}: {e}; {NONE}") from None
        missing.discard(target)
        yield target, array
    if missing:
        raise UserError(f"{folder}: lacks {len(missing)} tensors of {template}, for instance {min(missing)}")


def export(folder: Path, template: Path, out: Path, kind: str = "Q8_0") -> None:
    """Write the weights in `folder` to `out` with the metadata of `template`.

    Args:
        folder: Hugging Face folder of an architecture that both transformers and gguf know (Llama, Qwen2, Gemma 3).
        template: GGUF of the same model, any quantisation.
        kind: Q8_0, F16 or BF16, for all matrices; vectors stay float32.
    Raises:
        UserError: another architecture, or tensors the template does not have.
    """
    import gguf

    with plain_arrays():
        reader = gguf.GGUFReader(template)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    _copy_metadata(reader, writer, folder / "chat_template.jinja")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, array in _named_tensors(folder, reader, template):
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantisation), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
