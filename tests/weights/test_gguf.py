"""Export to GGUF: the weights that transformers reads from it are those that went in."""

import numpy as np
import pytest
import tiny

from stages.core.cli import UserError
from stages.weights import gguf as ours

pytestmark = pytest.mark.slow

SIZES = {"block_count": 2, "embedding_length": 32, "feed_forward_length": 64, "context_length": 64}


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "model")


@pytest.fixture
def template(tmp_path, folder):
    """A GGUF of the same model with other weights, all 0, and a name."""
    import gguf
    from safetensors.numpy import load_file

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    writer = gguf.GGUFWriter(path := tmp_path / "template.gguf", "llama")
    writer.add_name("Tiny")
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for key, value in SIZES.items():
        writer.add_uint32(f"llama.{key}", value)
    for name, array in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.zeros_like(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_and_metadata_come_back(tmp_path, folder, template):
    import gguf
    from safetensors.numpy import load_file

    ours.export(folder, template, out := tmp_path / "out.gguf", "F16")
    reader, wanted = gguf.GGUFReader(out), load_file(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    found = {t.name: t.data.astype(np.float32).reshape(t.shape[::-1]) for t in reader.tensors}
    assert len(found) == len(wanted)
    for name, array in wanted.items():
        got = found[names.get_name(name, try_suffixes=(".weight",))]
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp interleaves the halves of a head
            heads = 4 if "q_proj" in name else 2
            got = got.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        assert np.allclose(got, array, atol=1e-3), name
    contents = {name: field.contents() for name, field in reader.fields.items()}
    assert contents["general.name"] == "Tiny" and contents["tokenizer.ggml.tokens"] == ["a", "b"]
    assert contents["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16 and contents["llama.attention.head_count_kv"] == 2


def test_tensors_of_another_model_are_named(tmp_path, folder, template):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    taken = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of .*template\.gguf, for instance output_norm\.weight"):
        ours.export(folder, template, tmp_path / "out.gguf")
    save_file({**weights, "model.norm.weight": taken, "model.odd": taken}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor model\.odd has no place in .*template\.gguf"):
        ours.export(folder, template, tmp_path / "out.gguf")


def test_another_architecture_is_refused(tmp_path, folder):
    import gguf

    writer = gguf.GGUFWriter(path := tmp_path / "gpt.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="knows the llama architecture, not gpt2"):
        ours.export(folder, path, tmp_path / "out.gguf")
