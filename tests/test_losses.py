"""Every loss that `dpo.loss_type` may name trains; unknown ones and settings that do not fit are refused."""

import math

import pytest
import tiny

from stages.common import losses
from stages.common.params import require

NEEDED = {"robust": 0.1, "exo_pair": 0.001}  # label_smoothing


def test_all_of_trl_but_sft():
    """TRL names its losses in a help text only."""
    import re

    from trl import DPOConfig

    text = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert set(re.findall(r"'(\w+)'", text)) == {*losses.LOSSES, "sft"}


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_a_loss_trains_a_step(loss, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = tiny.tokenizer()
    model = tiny.model(tokenizer)
    before = model.lm_head.weight.detach().clone()
    ask = [{"role": "user", "content": "hi"}]
    pair = {"prompt": ask, **{k: [{"role": "assistant", "content": k}] for k in ("chosen", "rejected")}}
    smoothing, tau = NEEDED.get(loss, 0.0), 0.05
    require(*losses.checks(loss, smoothing, tau, 2))
    config = DPOConfig(
        output_dir=str(tmp_path), loss_type=[loss], label_smoothing=smoothing, discopop_tau=tau, beta=0.1,
        max_steps=1, learning_rate=0.01, per_device_train_batch_size=2, precompute_ref_log_probs=True, bf16=False,
        use_cpu=True, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([pair, {**pair, "prompt": [{"role": "user", "content": "ho"}]}])
    trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    assert math.isfinite(trainer.train().training_loss)
    assert not before.equal(trainer.model.lm_head.weight), "something was learnt"


@pytest.mark.parametrize(
    "loss, smoothing, tau, batch, text",
    [("dpo", 0.0, 0.05, 1, "loss_type: 'dpo' is none of sigmoid, .*discopop"), ("sft", 0.0, 0.05, 1, "'sft' is none of"),
     ("sigmoid", 0.1, 0.05, 1, "label_smoothing: 0.1 must be 0, sigmoid does not use it"),
     ("robust", 0.5, 0.05, 1, r"label_smoothing: 0.5 must be in \[0, 0.5\) for robust"),
     ("exo_pair", 0.0, 0.05, 1, r"label_smoothing: 0.0 must be in \[1e-06, 0.5\) for exo_pair"),
     ("discopop", 0.0, 0.0, 1, "discopop_tau: 0.0 is not above 0"),
     ("aot", 0.0, 0.05, 1, "batch_size: aot compares the pairs of a batch, so it takes at least 2, not 1")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(loss, smoothing, tau, batch, text):
    with pytest.raises(ValueError, match=text) as e:
        require(*losses.checks(loss, smoothing, tau, batch))
    assert str(e.value).count(":") == 1, "one fault, one line"
