"""Where the model of an arm is: local, at an endpoint, or in the Hub client's cache."""

import pytest

from stages.core.cli import UserError
from stages.dialogue import binding

COMMIT = "0123456789012345678901234567890123456789"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub client without a network, its cache in a folder of the test."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_local_and_served_models(tmp_path):
    base, sft = tmp_path / "base", tmp_path / "sft"
    assert binding.bound("openai:gpt-6-luna", base, base) == ("openai:gpt-6-luna", None)
    assert binding.bound("local", base, base) == ("embedded", base)
    assert binding.bound("local", sft, base) == (binding.UNDER_TEST, sft)


def test_a_model_of_the_hub_is_in_the_clients_cache(hub, tmp_path):
    folder = hub / "models--somebody--personal" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert binding.bound(f"somebody/personal@{COMMIT}", tmp_path, tmp_path) == (binding.UNDER_TEST, folder)
    (hub / "models--somebody--personal/refs").mkdir()
    (hub / "models--somebody--personal/refs/main").write_text(COMMIT)
    assert binding.bound("somebody/personal", tmp_path, tmp_path) == (binding.UNDER_TEST, folder)


def test_a_model_that_the_hub_does_not_give(hub, tmp_path):
    with pytest.raises(UserError, match="arms: model nobody/nothing cannot be had from the Hub"):
        binding.bound("nobody/nothing", tmp_path, tmp_path)
    assert binding.snapshot("nobody/nothing", fetch=False) is None  # what the plan asks
