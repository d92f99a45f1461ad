"""TRL's trainers as the stages run them: settings, processes, losses, and faults in one line."""

import math
import re
from types import SimpleNamespace

import pytest
import tiny
from tiny import one_thread  # noqa: F401

from stages.core.cli import UserError
from stages.training import model, trainer
from stages.training.curves import Curves
from stages.training.shared_prefix import Collator
from stages.weights.chat import encode

pytestmark = pytest.mark.slow

NEEDED = {"robust": {"label_smoothing": 0.1}, "exo_pair": {"label_smoothing": 0.001}}


def losses():
    from trl import DPOConfig

    return re.findall(r"'(\w+)'", DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])


def config(stage="sft", **changes):
    p = tiny.params(stage, **changes)
    return trainer.config(stage, getattr(p, stage), p.train)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "model")


def fitted(folder, tmp_path, **changes):
    """(trainer, weights of its head before) of a short DPO of the model in `folder` on four pairs."""
    p = tiny.params("dpo", **{"train__lora_r": 0, **changes})
    settings = trainer.config("dpo", p.dpo, p.train)
    settings.output_dir = str(tmp_path / "ckpt")
    policy, words = model.load(folder, p.train)
    before = policy.lm_head.weight.detach().clone()
    pairs = []
    for row in tiny.conversations(2, 2):
        sides = {side: encode(row["prompt"], row[side], words) for side in model.SIDES}
        ids = {f"{side}_ids": after for side, (_, after) in sides.items()}
        pairs.append({"prompt_ids": sides["chosen"][0], **ids, "conversation": row["prompt"][1]["content"]})
    pairs = model.with_reference(policy, pairs, p.train, words.pad_token_id)
    return trainer.fit(policy, words, pairs, settings, p.train, Curves(tmp_path / "live", "dpo")), before


@pytest.mark.parametrize("rows", ["shared", "separate"])
def test_small_steps_move_the_weights_in_bfloat16_too(folder, tmp_path, rows):
    import torch

    short = {"dpo__learning_rate": 1e-5, "dpo__max_steps": 2, "dpo__lr_scheduler_type": "constant", "train__rows": rows}
    found = {}
    for dtype in ("bfloat16", "float32"):
        trained, _ = fitted(folder, tmp_path / dtype, train__dtype=dtype, **short)
        assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
        found[dtype] = trained.moved
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.02) and found["float32"] > 0.5


def test_an_adapter_is_float32_and_what_it_leaves_frozen_bfloat16(folder, tmp_path):
    import torch

    trained, _ = fitted(folder, tmp_path, train__dtype="bfloat16", train__lora_r=2, train__lora_layers=0,
                        dpo__learning_rate=1e-5, dpo__max_steps=4)  # fmt: skip
    kinds = {p.requires_grad: set() for p in trained.model.parameters()}
    for p in trained.model.parameters():
        kinds[p.requires_grad].add(p.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}} and trained.moved > 0.5


def test_train_dtype_decides_whatever_the_launcher_says(monkeypatch):
    for dtype, wanted in {"float32": "no", "bfloat16": "bf16"}.items():
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
        assert config(train__dtype=dtype).mixed_precision == wanted


def test_settings_go_to_trl_and_those_of_the_stage_before_those_of_train():
    made = config(train__weight_decay=0.1, train__max_grad_norm=0.5, sft__max_grad_norm=2.0)
    assert (made.weight_decay, made.max_grad_norm, made.warmup_steps) == (0.1, 2.0, 0.1)
    assert (made.lr_scheduler_type, made.num_train_epochs, made.save_steps, made.seed) == ("cosine", 1, 25, 1)
    assert made.max_length is None and made.completion_only_loss and not made.gradient_checkpointing
    made = config("dpo", dpo__beta=0.2, dpo__loss_type=["sigmoid", "sft"], dpo__loss_weights=[1.0, 0.5])
    assert (made.beta, made.loss_type, made.loss_weights) == (0.2, ["sigmoid", "sft"], [1.0, 0.5])


@pytest.mark.parametrize(
    "stage, changes, text",
    [("sft", {"sft__lr_scheduler_type": "cosin"}, "params.yaml: sft: cosin is not a valid SchedulerType"),
     ("dpo", {"dpo__loss_type": "sigmid"}, "params.yaml: dpo.loss_type: 'sigmid' is none of .* mean sigmoid"),
     ("dpo", {"dpo__loss_weights": [1.0, 2.0]}, "params.yaml: dpo: `loss_weights` must have the same length")],
)  # fmt: skip
def test_values_that_trl_refuses_are_one_line(stage, changes, text):
    with pytest.raises(UserError, match=text) as e:
        config(stage, **changes)
    assert "\n" not in str(e.value)


def test_values_that_its_trainer_refuses_are_one_line_too(folder, tmp_path):
    with pytest.raises(UserError, match=r"params\.yaml: dpo: Label smoothing must be greater than 0\.0"):
        fitted(folder, tmp_path, dpo__loss_type="exo_pair")


def test_a_value_error_of_the_first_step_is_one_of_the_settings_and_later_ones_are_not():
    error = ValueError("Unknown loss type: x\nmore")
    assert str(trainer.explained(error, "dpo", None, 0)) == "params.yaml: dpo: Unknown loss type: x"
    assert trainer.explained(error, "dpo", None, 3) is error


def test_accumulation_must_be_shared_out_evenly(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^sft\.gradient_accumulation_steps: 3 is not a multiple of the 2 processes$"):
        config(sft__gradient_accumulation_steps=3)


@pytest.mark.parametrize(("size", "accumulated", "processes"), [(12, 1, 1), (2, 6, 1), (3, 2, 2)])
def test_a_conversation_is_whole_in_a_step_however_many_batches_make_it_up(size, accumulated, processes):
    conversations = [str(n // 12) for n in range(60)]
    args = SimpleNamespace(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated,
                           world_size=processes, seed=1)  # fmt: skip
    made = SimpleNamespace(args=args, train_dataset={"conversation": conversations}, data_collator=Collator(0))
    drawn = [conversations[i] for i in trainer.Tokenised._get_train_sampler(made)]
    assert all(len({*drawn[n : n + 12]}) == 1 for n in range(0, 60, 12)) and drawn != sorted(drawn)


@pytest.mark.parametrize("loss", [name for name in losses() if name != "sft"])
def test_every_loss_of_trl_trains_a_step(folder, tmp_path, loss):
    more = {f"dpo__{key}": value for key, value in NEEDED.get(loss, {}).items()}
    trained, before = fitted(folder, tmp_path, dpo__loss_type=loss, dpo__max_steps=1, dpo__learning_rate=0.01, **more,
                             dpo__lr_scheduler_type="constant")  # fmt: skip
    assert trained.state.global_step == 1 and math.isfinite(trained.state.log_history[0]["loss"])
    assert not before.equal(trained.model.lm_head.weight), "something was learnt"
