"""Sections train, sft and dpo: TRL's names, and faults by their key."""

import pytest
import tiny

from stages.core.params import checked, load_yaml
from stages.training import settings

pytestmark = pytest.mark.slow


def faults(section, **changes):
    """Faults of a section of params.yaml with `changes`."""
    schema = getattr(settings, section.title())
    return checked(schema, {**load_yaml("params.yaml")[section], **changes})[1]


@pytest.mark.parametrize(
    "section, key, text",
    [("sft", "epochs", "unknown (did you mean num_train_epochs?)"),
     ("dpo", "weight_decy", "unknown (did you mean weight_decay?)"),
     ("dpo", "assistant_only_loss", "the stage sees to it itself"),
     ("train", "lora_rank", "unknown (did you mean lora_r?)"),
     ("train", "bta", "unknown"), ("train", "beta", "unknown"), ("train", "seed", "unknown"),
     ("sft", "output_dir", "the stage sees to it itself"),
     ("sft", "max_length", "the stage sees to it itself"), ("train", "load_in_4bit", "unknown")],
)  # fmt: skip
def test_a_key_that_trl_has_not_or_that_is_the_stages_own(section, key, text):
    (fault,) = faults(section, **{key: 1})
    assert fault.startswith(f"{key}: {text}")


@pytest.mark.parametrize(
    "section, more",
    [("sft", {"weight_decay": 0.1, "neftune_noise_alpha": 5.0, "loss_type": "dft", "gradient_checkpointing": True}),
     ("dpo", {"f_divergence_type": "js_divergence", "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}),
     ("train", {"optim": "adafactor", "use_rslora": True, "lora_target_modules": ["q_proj"]})],
)  # fmt: skip
def test_every_other_setting_of_trl_may_be_added(section, more):
    assert faults(section, **more) == []


def test_the_names_that_the_stages_keep_for_themselves_are_trls():
    assert not settings.OWN - settings.trl_names("Sft") - settings.trl_names("Dpo")


def test_listed_names_are_trls_but_for_ours():
    """A field whose docstring begins with Ours is not TRL's, every other one is."""
    import ast
    from pathlib import Path

    ours, known = set(), settings.trl_names("Sft") | settings.trl_names("Dpo") | settings.trl_names("Train")
    for node in ast.parse(Path(settings.__file__).read_text()).body:
        for field, text in zip(getattr(node, "body", ()), getattr(node, "body", ())[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                name = field.target.id
                assert (name not in known | {"dtype", "attn_implementation"}) == text.value.value.startswith("Ours"), name
                ours |= {name} if name not in known else set()
    assert {"rows", "mix", "lora_layers"} <= ours


@pytest.mark.parametrize(
    "changes, fault",
    [({"label_smoothing": 0.1}, "label_smoothing: sigmoid does not read it, only aot, aot_unpaired, exo_pair, robust"),
     ({"label_smoothing": 0.5, "loss_type": "robust"}, "label_smoothing: input should be less than 0.5, found 0.5"),
     ({"discopop_tau": 0.1}, "discopop_tau: sigmoid does not read it, only discopop"),
     ({"loss_type": "sft"}, "loss_type: sft alone never reads the rejected reply; that is the stage sft"),
     ({"loss_type": ["ipo", "aot"], "per_device_train_batch_size": 1},
      "per_device_train_batch_size: aot compares the pairs of a batch, so it must be at least 2"),
     ({"loss_type": []}, "loss_type: list should have at least 1 item after validation, not 0, found []"),
     ({"beta": 0.0}, "beta: input should be greater than 0, found 0.0")],
)  # fmt: skip
def test_what_a_loss_would_pass_over_is_a_fault(changes, fault):
    assert faults("dpo", **changes) == [fault]


@pytest.mark.parametrize(
    "changes", [{"loss_type": "robust", "label_smoothing": 0.1}, {"loss_type": "discopop", "discopop_tau": 0.1},
                {"loss_type": ["sigmoid", "robust"], "label_smoothing": 0.1}, {"loss_type": "aot"}],
)  # fmt: skip
def test_settings_that_one_of_the_losses_reads_pass(changes):
    assert faults("dpo", **changes) == []


@pytest.mark.parametrize(
    "shares, text",
    [({"chat": 1.0}, "mix: chat: 1.0 is outside"), ({"chat": -0.1}, "outside"), ({"a": 0.5, "b": 0.5}, "sum to 1"),
     ({"../a": 0.5}, "plain name")],
)  # fmt: skip
def test_impossible_shares_are_refused(shares, text):
    (fault,) = faults("sft", mix=shares)
    assert text in fault


def test_possible_shares_pass():
    assert tiny.params("sft", sft__mix={"chat": 0.5, "code": 0.4}).sft.mix == {"chat": 0.5, "code": 0.4}
