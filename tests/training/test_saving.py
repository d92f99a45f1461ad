"""Folders of trained models: they load, and stop where a reply ends."""

import json
from types import SimpleNamespace

import pytest
import tiny
from conftest import ROOT

from stages.training import saving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("had, more", [(None, []), (5, [5]), ([5, 6], [5, 6])])
def test_a_saved_folder_loads_speaks_and_knows_its_end(tmp_path, had, more):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = tiny.tokenizer()
    model = tiny.model(tokenizer)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = had, None
    model.save_pretrained(base := tmp_path / "base")
    trainer = SimpleNamespace(
        model=model, accelerator=SimpleNamespace(unwrap_model=lambda m: m), is_world_process_zero=lambda: True,
        is_fsdp_enabled=False, is_deepspeed_enabled=False,
    )  # fmt: skip
    settings = SimpleNamespace(gguf="none", dtype="float32")
    saving.save(trainer, tokenizer, base, out := tmp_path / "out", settings, "# A card")
    assert (out / "README.md").read_text() == "# A card"
    ends = json.loads((out / "generation_config.json").read_text())
    own = tokenizer.eos_token_id
    assert ends["eos_token_id"] == [own, *more]
    assert ends["pad_token_id"] == tokenizer.pad_token_id != own

    loaded, spoken = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "hi"}]
    assert spoken.chat_template == tiny.CHATML
    given = spoken.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    loaded.lm_head.weight.data.zero_()
    hidden = loaded.model(**given).last_hidden_state[0, -1]
    loaded.lm_head.weight.data[own] = hidden  # now its end token is by far the likeliest
    said = loaded.generate(**given, max_new_tokens=8, do_sample=False)
    assert said[0, given["input_ids"].shape[1] :].tolist() == [own]


def test_the_models_are_declared_for_the_registry():
    from dvc.repo import Repo

    with Repo(ROOT) as repo:
        found = repo.artifacts.read()["dvc.yaml"]
        outs = {o.def_path for s in repo.index.stages for o in s.outs}
    assert {name: a.path for name, a in found.items()} == {"sft": "models/sft", "dpo": "models/dpo"}
    for name, a in found.items():
        assert a.type == "model" and a.desc and name in a.labels and a.path in outs
