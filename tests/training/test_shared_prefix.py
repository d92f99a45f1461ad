"""Shared prefixes: the same numbers as separate rows."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import one_thread  # noqa: F401

from stages.core.cli import UserError
from stages.training import model as models
from stages.training import order, shared_prefix, trainer
from stages.training.curves import Curves
from stages.training.dataset import supervised
from stages.weights.chat import encode

pytestmark = pytest.mark.slow

WORDS = tiny.tokenizer()


def settings(**changes):
    """Section `train`, with adapters on all blocks."""
    return tiny.params("sft", **{f"train__{key}": value for key, value in {"lora_layers": 0, **changes}.items()}).train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pairs():
    """Three conversations of four turns, as tokens."""
    made = []
    for row in tiny.conversations(3, 4):
        sides = {s: encode(row["prompt"], row[s], WORDS) for s in ("chosen", "rejected", "completion")}
        ids = {f"{s}_ids": said for s, (_, said) in sides.items()}
        made.append({"prompt_ids": sides["chosen"][0], **ids, "conversation": row["prompt"][1]["content"]})
    return made


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8))
def test_a_forest_holds_each_prefix_once_and_every_token_sees_its_own_row(rows):
    f = shared_prefix.forest(rows)
    assert len(f.ids) == len({tuple(r[:i]) for r in rows for i in range(1, len(r) + 1)})
    for row, where in zip(rows, f.where, strict=True):
        assert [f.ids[i] for i in where] == row
        assert [f.depth[i] for i in where] == list(range(len(row)))
        for depth, i in enumerate(where):
            assert [j for j in range(len(f.ids)) if j <= i < f.end[j]] == where[: depth + 1]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8), st.sampled_from([None, 3]))
def test_attention_by_branch_is_that_of_the_whole_mask(rows, window):
    f = shared_prefix.forest(rows)
    trunk, subtrees = shared_prefix.branches(f.end)
    assert [*range(trunk), *(i for begin, end in subtrees for i in range(begin, end))] == list(range(len(f.ids)))
    assert len(subtrees) != 1  # it would belong to the trunk
    query, key, value = torch.randn(3, 1, 2, len(f.ids), 4).unbind(0)
    mask = shared_prefix.visible(torch.tensor(f.end), torch.tensor(f.depth), window, "sdpa")
    layer = SimpleNamespace(num_key_value_groups=1)
    known = shared_prefix.by_branch(layer, query, key, value, mask)[0]
    found = shared_prefix.by_branch(layer, query, key, value, mask, forest_branches=(trunk, subtrees))[0]
    assert found.shape == known.shape and torch.allclose(found, known, atol=1e-5)


WINDOWS = {  # by kind of layer, and one for all
    "gemma3_text": {"head_dim": 16, "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 12},
}


@pytest.mark.parametrize(
    "family, more", [*((f, {}) for f in tiny.FAMILIES), *(("qwen2", {"kind": k, **more}) for k, more in WINDOWS.items())]
)
def test_log_probs_are_those_of_separate_rows(tmp_path, family, more):
    words = tiny.tokenizer(family)
    model, _ = models.load(tiny.save(tmp_path / "m", family=family, **more), settings())
    rows = []
    for row in tiny.conversations(3, 4):
        before, said = encode(row["prompt"], row["chosen"], words)
        rows += supervised([{"prompt_ids": before, "completion_ids": said, "conversation": ""}], "completion")
    shared = models.log_probs(model, rows, settings(rows="shared"), words.pad_token_id)
    separate = models.log_probs(model, rows, settings(rows="separate"), words.pad_token_id)
    assert len(shared) == len(separate) == 12
    for row, a, b in zip(rows, shared, separate, strict=True):
        assert len(a) == sum(label != -100 for label in row["labels"])
        assert abs(a - b).max() < 1e-4 and b.std() > 0.01


def test_logits_of_several_trees_in_one_batch_are_those_of_separate_rows(folder, pairs):
    import torch

    model, _ = models.load(folder, settings())
    batch = shared_prefix.Collator(WORDS.pad_token_id)(pairs)
    tokens = sum(len(p["prompt_ids"]) + len(p[side]) for p in pairs for side in ("chosen_ids", "rejected_ids"))
    assert batch["forest_ids"].shape[1] < tokens / 4
    with torch.no_grad():
        body = model.base_model(**{k: v for k, v in batch.items() if k != "completion_mask"})
        found = model.lm_head(body.last_hidden_state)
        for i, side in enumerate(("chosen_ids", "rejected_ids")):
            for n, pair in enumerate(pairs):
                ids = torch.tensor([pair["prompt_ids"] + pair[side]])
                wanted = model.lm_head(model.base_model(input_ids=ids).last_hidden_state)[0]
                wanted = wanted[len(pair["prompt_ids"]) - 1 : -1]
                assert torch.allclose(found[i * len(pairs) + n, : len(wanted)], wanted, atol=1e-4)


def test_a_prediction_that_rows_share_is_made_once(folder, pairs):
    model, _ = models.load(folder, settings())
    collate = shared_prefix.Collator(WORDS.pad_token_id)
    other = {**pairs[0], "rejected_ids": pairs[1]["chosen_ids"]}  # as in a crossed group: the chosen reply again
    batch = collate([pairs[0], other])
    replies = [pairs[0]["chosen_ids"], pairs[0]["rejected_ids"], other["rejected_ids"]]
    assert len(batch["forest_place"]) == len({tuple(reply[: i + 1]) for reply in replies for i in range(len(reply))})
    found, gradients = [], []
    for one in (batch, collate([pairs[0]]), collate([other])):
        model.zero_grad()
        labels = one["input_ids"].masked_fill(one["completion_mask"] == 0, -100)
        out = model(**{k: v for k, v in one.items() if k != "completion_mask"}, labels=labels, fused_lm_head=True)
        out.log_probs.sum().backward()
        assert torch.isclose(out.loss, -out.log_probs[out.log_probs != 0].mean())
        found.append(out.log_probs.sum(1))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(found[0][[0, 2]], found[1], atol=1e-4) and torch.allclose(found[0][[1, 3]], found[2], atol=1e-4)
    assert torch.allclose(gradients[0], gradients[1] + gradients[2], rtol=1e-3, atol=1e-3)


def steps(folder, pairs, name, form, lora, live):
    """Losses, gradient norms and TRL's other measures of a short training, and the weights it ends with."""
    import torch
    from transformers import set_seed

    short = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.002}
    p = tiny.params(
        name, train__rows=form, train__lora_r=lora, train__lora_layers=0, **{f"{name}__{k}": v for k, v in short.items()}
    )
    set_seed(1)
    model, words = models.load(folder, p.train)
    rows = supervised(pairs, "completion")
    if name == "dpo":
        rows = models.with_reference(model, pairs, p.train, words.pad_token_id)
    config = trainer.config(name, getattr(p, name), p.train)
    config.output_dir = str(live / "ckpt")
    trained = trainer.fit(model, words, rows, config, p.train, Curves(live, name))
    measures = ["loss", "grad_norm", *(["entropy", "mean_token_accuracy", "logits/chosen"] if name == "dpo" else [])]
    logs = [[e[m] for m in measures] for e in trained.state.log_history if "loss" in e]
    return torch.tensor(logs), trained.model.state_dict()


@pytest.mark.parametrize(
    "stage, lora, kind", [("sft", 0, "gemma3_text"), ("sft", 4, "llama"), ("dpo", 0, "qwen2"), ("dpo", 4, "llama")]
)
def test_losses_gradients_and_weights_are_those_of_separate_rows(folder, pairs, stage, lora, kind, tmp_path, monkeypatch):
    """Gemma 3 and Qwen2 with sliding windows, their heads tied to the embeddings."""
    import torch

    folder = tiny.save(tmp_path / "m", kind=kind, **WINDOWS[kind]) if kind in WINDOWS else folder
    conversations = [pair["conversation"] for pair in pairs]
    by_conversation = lambda _, *how: order.by_conversation(conversations, *how)  # noqa: E731 else each form has its own order
    monkeypatch.setattr(order, "by_length", by_conversation)
    (a, weights), (b, others) = (steps(folder, pairs, stage, form, lora, tmp_path / form) for form in ("shared", "separate"))
    assert len(a) == 6 and a[0, 0] != a[-1, 0]
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
    assert all(torch.allclose(weights[k], others[k], atol=1e-4) for k in weights)


def test_a_state_that_many_rows_share_gets_its_gradient_in_one_order():
    hidden = torch.randn(1, 600, 64, requires_grad=True)
    body = SimpleNamespace(forward=lambda **_: SimpleNamespace(last_hidden_state=hidden))
    config = SimpleNamespace(_attn_implementation="sdpa")
    outer = SimpleNamespace(get_text_config=lambda: config)
    shared_prefix.share(SimpleNamespace(base_model=body, config=outer, set_attn_implementation=lambda _: None))
    places = torch.arange(600)
    batch = {"forest_ids": places[None], "forest_depth": places[None], "forest_end": places + 1, "forest_target": places}
    batch |= {"forest_place": torch.full((900,), 7), "forest_row": torch.arange(24 * 70).view(24, 70) % 900}
    torch.set_num_threads(4)  # no core is needed for each; `one_thread` takes it back
    weights, states = torch.randn(24, 70, 64), body.forward(**batch).last_hidden_state
    found = [torch.autograd.grad(states, hidden, weights, retain_graph=True)[0] for _ in range(20)]
    assert all(torch.equal(found[0], gradient) for gradient in found)


@pytest.mark.parametrize("window", [None, 12])
def test_a_mask_for_flex_attention_shows_the_same(pairs, window):
    import torch

    batch = shared_prefix.Collator(0)(pairs[:4])
    asked = (end := batch["forest_end"], batch["forest_depth"][0], window)
    dense, block = shared_prefix.visible(*asked, "sdpa")[0, 0], shared_prefix.visible(*asked, "flex_attention")
    i = torch.arange(len(end))
    assert torch.equal(block.mask_mod(0, 0, i[:, None], i[None, :]), dense)
    assert int(dense.sum(1).max()) == (window or int(batch["forest_depth"].max()) + 1)


@pytest.mark.parametrize("kind, change, told", [("llama", {"attn_implementation": "eager"}, "eager"),
                                                ("lfm2", {"layer_types": ["conv"]}, "conv")])  # fmt: skip
def test_attention_that_takes_no_mask_is_refused(kind, change, told):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, num_key_value_heads=1, **sizes, **change))
    with pytest.raises(UserError, match=rf"the model has {told}.*set train.rows=separate"):
        shared_prefix.share(model)
