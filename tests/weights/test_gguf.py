"""Export to GGUF: transformers reads from it the weights that went in, and llama.cpp says what transformers says."""

import numpy as np
import pytest
import tiny
from tiny import one_thread  # noqa: F401

from stages.core.cli import UserError
from stages.llm import local
from stages.weights import gguf as ours

pytestmark = pytest.mark.slow

KINDS = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gemma3_text": {"layers": 7, "head_dim": 256, "sliding_window": 8},  # llama.cpp: every sixth layer sees all
}
PROMPT = [72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100, 33, 9, 8, 7]


@pytest.fixture(params=KINDS)
def folder(tmp_path, request):
    """A random model whose weights F16 holds exactly, beside a GGUF of it with weights 0."""
    import torch

    words = tiny.tokenizer()
    model = tiny.model(words, kind=request.param, initializer_range=0.3, max_position_embeddings=256, **KINDS[request.param])
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p + 0.3 * torch.randn_like(p) * (p.ndim == 1)).half())  # norms and biases begin as 1 and 0
    model.save_pretrained(made := tmp_path / "model")
    words.save_pretrained(made)
    tiny.gguf(made)
    return made


def test_weights_and_metadata_come_back(tmp_path, folder):
    import gguf
    from transformers import AutoModelForCausalLM

    ours.export(folder, folder / "model.gguf", out := tmp_path / "out.gguf", "F16")
    before = AutoModelForCausalLM.from_pretrained(folder)
    after = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype="float32")
    wanted, found = before.state_dict(), after.state_dict()
    assert type(before) is type(after) and wanted.keys() == found.keys()
    for name, array in wanted.items():
        assert np.allclose(found[name], array, rtol=0, atol=1e-6), name
    contents, template = (
        {n: f.contents() for n, f in gguf.GGUFReader(p).fields.items()} for p in (out, folder / "model.gguf")
    )
    assert contents.pop("general.file_type") == gguf.LlamaFileType.MOSTLY_F16
    assert {k: v for k, v in contents.items() if not k.startswith("GGUF.")}.items() <= template.items()
    assert len(contents) == len(template)


def test_llama_cpp_says_what_transformers_says(tmp_path, folder):
    """Greedy tokens, and log-probabilities of the first; a window one wider or narrower is 0.36 or more away in the mean."""
    import httpx2
    import torch
    from transformers import AutoModelForCausalLM

    (served := tmp_path / "served").mkdir()
    ours.export(folder, folder / "model.gguf", served / "model.gguf", "F16")
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = torch.tensor([PROMPT])
    wanted = model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=24, do_sample=False)[0]
    logs = model(asked).logits[0, -1].log_softmax(-1).detach().numpy()
    engine = local.start(served, slots=1, context=256, threads=1)
    body = {"prompt": PROMPT, "n_predict": 24, "temperature": 0, "return_tokens": True, "n_probs": 50}
    url = engine.url.removesuffix("/v1") + "/completion"
    reply = httpx2.post(url, json=body, headers={"Authorization": f"Bearer {engine.key}"}, timeout=60).json()
    engine.stop()
    assert reply["tokens"] == wanted[len(PROMPT) :].tolist() and len(set(reply["tokens"])) > 3
    tops = reply["completion_probabilities"][0]["top_logprobs"]
    assert np.mean([abs(top["logprob"] - logs[top["id"]]) for top in tops]) < 0.08  # llama.cpp's activations are F16


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_tensors_of_another_model_are_named(tmp_path, folder):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    taken = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of .*model\.gguf, for instance output_norm\.weight"):
        ours.export(folder, folder / "model.gguf", tmp_path / "out.gguf")
    for name, array in {"model.odd": taken, "model.norm.weight": taken[:-1]}.items():
        save_file({**weights, name: array}, folder / "model.safetensors")
        with pytest.raises(UserError, match=rf"tensor {name} has no place in .*model\.gguf"):
            ours.export(folder, folder / "model.gguf", tmp_path / "out.gguf")


def test_another_architecture_is_refused(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(path := tmp_path / "rwkv.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"no GGUF of architecture rwkv7; set base_model\.gguf and train\.gguf to none"):
        ours.export(tmp_path, path, tmp_path / "out.gguf")


class Squared:
    """A step that is more than another order and a constant."""

    def process(self, weights, name, **_):
        from types import SimpleNamespace

        return SimpleNamespace(weights=weights**2)


def test_a_step_that_cannot_be_undone_is_refused():
    with pytest.raises(ValueError, match="more than its order and a constant"):
        ours._undone(np.zeros((2, 3), np.float32), "ssm_a", (3, 2), Squared())
