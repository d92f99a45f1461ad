"""Shared prefixes: the rows of a batch as a forest of tokens, each token computed once.

A row per turn repeats the whole conversation before it: 5.5 times the tokens at 10 turns. Rows that begin alike are merged
over their token ids, so it is exact for any chat template and any data. TRL's trainers and losses stay as they are:
`Collator` gives them each row's reply (with the one token before it), `share` has the model's body compute the forest
and hand back the hidden states of just those tokens, and `share_head` has TRL's head predict each of them once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from stages.core.cli import UserError
from stages.training.dataset import IGNORED

ATTENTION = ("sdpa", "flex_attention")  # implementations that take a mask of one's own
BY_BRANCH = "sdpa_by_branch"


@dataclass(frozen=True)
class Forest:
    """N tokens in depth-first order.

    `ids` and `depth` (position in its row), [N]; `end`, [N]: one past the last token below it, so token j is seen by token i
    where j <= i < end[j], and that is the whole attention mask; `where`: for each row, the places of its tokens.
    """

    ids: list[int]
    depth: list[int]
    end: list[int]
    where: list[list[int]]


def forest(rows: Sequence[Sequence[int]]) -> Forest:
    """Rows of token ids, merged where they begin alike. In sorted order a row shares most with the one before it."""
    ids: list[int] = []
    depth: list[int] = []
    end: list[int] = []
    where: list[list[int]] = [[] for _ in rows]
    before: Sequence[int] = ()
    path: list[int] = []  # the places of its tokens
    for number in sorted(range(len(rows)), key=lambda n: list(rows[n])):
        row = rows[number]
        shared = next((i for i, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), min(len(before), len(row)))
        for place in path[shared:]:
            end[place] = len(ids)
        path = path[:shared] + list(range(len(ids), len(ids) + len(row) - shared))
        ids.extend(row[shared:])
        depth.extend(range(shared, len(row)))
        end.extend([0] * (len(row) - shared))
        before, where[number] = row, path
    for place in path:
        end[place] = len(ids)
    return Forest(ids, depth, end, where)


class Collator:
    """Batches for a model that `share` has changed, from TRL's tokenised rows.

    Rows are those of SFT (`input_ids`, `labels`) or of DPO (`prompt_ids`, `chosen_ids`, `rejected_ids`, and the reference's
    log-probabilities). Of R rows (or pairs: first all chosen, then all rejected) whose longest reply has W tokens,
    `input_ids`, `attention_mask` and `labels` or `completion_mask` are [R, W + 1]. Beside them come the forest of N tokens
    and the P predictions that the rows ask for, each once: `forest_place` (a token of the forest) and `forest_target` (the
    token predicted there), [P], and `forest_row`, [R, W + 1], which of them a row's tokens are, 0 where there is none.
    """

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `examples`."""
        if "chosen_ids" not in examples[0]:
            starts = [next(i for i, label in enumerate(e["labels"]) if label != IGNORED) for e in examples]
            rows = [(e["input_ids"][:s], e["input_ids"][s:]) for e, s in zip(examples, starts, strict=True)]
            batch, mask = self._batch(rows)
            return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, IGNORED)}
        sides = [[(e["prompt_ids"], e[side]) for e in examples] for side in ("chosen_ids", "rejected_ids")]
        batch, mask = self._batch(sides[0] + sides[1])
        known = [key for key in ("ref_chosen_logps", "ref_rejected_logps") if key in examples[0]]
        return {**batch, "completion_mask": mask, **{key: torch.tensor([e[key] for e in examples]) for key in known}}

    def _batch(self, rows: list[tuple[list[int], list[int]]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(what the model takes, mask of the replies' tokens)."""
        # nothing is predicted from a row's last token, so it need not be computed
        f = forest([prompt + reply[:-1] for prompt, reply in rows])
        width = max(len(reply) for _, reply in rows) + 1
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        asked: dict[tuple[int, int], int] = {}  # (place, target): which prediction
        row = torch.zeros((len(rows), width), dtype=torch.long)
        for i, (prompt, reply) in enumerate(rows):
            ids[i, : len(reply) + 1] = torch.tensor([prompt[-1], *reply])
            mask[i, 1 : len(reply) + 1] = 1
            predicted = zip(f.where[i][len(prompt) - 1 :], reply, strict=True)
            row[i, : len(reply)] = torch.tensor([asked.setdefault(one, len(asked)) for one in predicted])
        place, target = torch.tensor(list(asked)).T
        seen = mask.clone()
        seen[:, 0] = 1
        return {
            "input_ids": ids,
            "attention_mask": seen,
            "forest_ids": torch.tensor([f.ids]),
            "forest_depth": torch.tensor([f.depth]),
            "forest_end": torch.tensor(f.end),
            "forest_place": place,
            "forest_target": target,
            "forest_row": row,
        }, mask


def visible(end: torch.Tensor, depth: torch.Tensor, window: int | None, attention: str) -> Any:
    """Attention mask of a forest: boolean [1, 1, N, N] for sdpa, a BlockMask for flex attention.

    Args:
        end, depth: of the forest, [N].
        window: of its row, how many tokens a token sees, itself included; None: all before it.
    """

    def sees(batch: Any, head: Any, i: Any, j: Any) -> Any:
        own = (j <= i) & (i < end[j])
        return own if window is None else own & (depth[i] - depth[j] < window)

    if attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(sees, None, None, len(end), len(end), device=str(end.device))
    i = torch.arange(len(end), device=end.device)
    return sees(None, None, i[:, None], i[None, :])[None, None]


def branches(end: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """(length of the trunk, the tokens that all others see; first token and end of each subtree behind it) of a forest."""
    trunk = next((i for i, e in enumerate(end) if e < len(end)), len(end))
    found, begin = [], trunk
    while begin < len(end):
        found.append((begin, end[begin]))
        begin = end[begin]
    return trunk, found


def by_branch(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, forest_branches: Any = None, **kwargs: Any
) -> tuple[Any, None]:
    """Attention of a forest's tokens (`AttentionInterface`): sdpa of the trunk, then of each subtree with the trunk.

    Subtrees do not see each other, and sdpa computes what a mask hides: N² products for N tokens. On a GPU the mask is
    cheaper than a call for each subtree.
    """
    if forest_branches is None or query.is_cuda:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    trunk, subtrees = forest_branches
    found = []
    for begin, end in [(0, trunk), *subtrees] if trunk else subtrees:
        own = attention_mask[:, :, begin:end]
        keys, values, mask = (
            torch.cat([x.narrow(dim, 0, min(trunk, begin)), x.narrow(dim, begin, end - begin)], dim)
            for x, dim in ((key, 2), (value, 2), (own, 3))
        )
        found.append(sdpa_attention_forward(module, query[:, :, begin:end], keys, values, mask, **kwargs)[0])
    return torch.cat(found, 1), None


AttentionInterface.register(BY_BRANCH, by_branch)
AttentionMaskInterface.register(BY_BRANCH, sdpa_mask)


def windows(model: Any) -> dict[str | None, int | None]:
    """The window of each kind of layer, None for full attention; key None where the model's body takes one mask for all.

    Raises:
        UserError: the attention takes no mask of one's own.
    """
    config = model.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    if other := sorted(kinds - {"full_attention", "sliding_attention"}) or {config._attn_implementation} - {*ATTENTION}:
        raise UserError(f"train.rows: shared needs full or sliding attention by {' or '.join(ATTENTION)}, the model has "
                        f"{min(other)}; set train.rows=separate")  # fmt: skip
    if "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in kinds}
    return {None: None if kinds else window}


def picked(table: Any, rows: Any) -> Any:
    """Rows of `table`, [N, ...] of floats, by number, with the shape of `rows`.

    Not by index: its gradient adds up in the order in which threads come, so that no two trainings end alike.
    """
    return torch.nn.functional.embedding(rows, table)


def share(model: Any) -> None:
    """Let the causal language model `model` (before adapters are put on it) take the batches of `Collator`.

    Its body then returns, in place of hidden states by row and position, those of the replies' tokens, [R, W + 1, hidden];
    with `forest_once` those of the P predictions, [1, P, hidden].

    Raises:
        UserError: see `windows`.
    """
    attention, by_kind = model.config.get_text_config()._attn_implementation, windows(model)
    if attention == "sdpa":
        model.set_attn_implementation(BY_BRANCH)
    body = model.base_model
    plain = body.forward

    @functools.wraps(plain)
    def forward(*args: Any, forest_ids: Any = None, forest_once: bool = False, **kwargs: Any) -> Any:
        if forest_ids is None:
            return plain(*args, **kwargs)
        depth, end, place, _, row = (kwargs.pop(f"forest_{x}") for x in ("depth", "end", "place", "target", "row"))
        kwargs |= {"input_ids": forest_ids, "position_ids": depth, "use_cache": False}
        masks = {kind: visible(end, depth[0], window, attention) for kind, window in by_kind.items()}
        if attention == "sdpa":
            kwargs["forest_branches"] = branches(end.tolist())
        found = plain(**{**kwargs, "attention_mask": masks.get(None, masks)})
        found.last_hidden_state = picked(found.last_hidden_state[0], place[None] if forest_once else place[row])
        return found

    body.forward = forward


def share_head(model: Any) -> None:
    """Let the head that TRL's `add_fused_lm_head` put on `model` make each prediction of a batch of `Collator` once.

    TRL's scores every row and its padding. The pairs of a group of four users hold each user's own reply three times, so
    that is half of the work.
    """
    fused = model.forward

    @functools.wraps(fused)
    def forward(*args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head or "forest_ids" not in kwargs:
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)
        said, row = kwargs.pop("labels")[:, 1:] != IGNORED, kwargs["forest_row"][:, :-1]
        found = fused(*args, fused_lm_head=True, shift_labels=kwargs["forest_target"][None], forest_once=True, **kwargs)
        for name, values in found.items():
            if name not in ("loss", "aux_loss"):  # these are by token
                by_row = picked(values[0, :, None], row)[..., 0] if values.is_floating_point() else values[0][row]
                found[name] = by_row.masked_fill(~said, 0)
        found.loss = -found.log_probs.sum() / said.sum()
        return found

    model.forward = forward
