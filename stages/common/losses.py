"""The losses of TRL's DPOTrainer that `dpo.loss_type` may name, and the settings each of them needs.

All work on the sums of log-probabilities of chosen and rejected reply, of the model and of the reference, so they share the
stage's precomputed reference. Left out is TRL's `sft`: alone it never looks at the rejected reply; that is the stage sft.
"""

# what `label_smoothing` must lie in, where the loss knows it; elsewhere it must be 0, as it would be passed over in silence
SMOOTHING = {
    "robust": (0.0, 0.5),  # the share of labels believed to be flipped (arXiv 2403.00409)
    "exo_pair": (1e-6, 0.5),  # epsilon; must be above 0, its paper recommends 0.001 (arXiv 2402.00856)
    "aot": (0.0, 0.5),
    "aot_unpaired": (0.0, 0.5),
}
BY_BATCH = ("aot", "aot_unpaired")  # they sort within a batch; in a batch of one both are the plain sigmoid
LOSSES = (
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop",
)  # fmt: skip


def checks(loss_type: str, label_smoothing: float, discopop_tau: float, batch_size: int) -> list[tuple[bool, str]]:
    """For `params.require`: the loss is known and its settings are ones it takes."""
    low, high = SMOOTHING.get(loss_type, (0.0, 0.0))
    smooth = low <= label_smoothing < high if high else label_smoothing == 0
    wanted = f"must be in [{low:g}, {high:g}) for {loss_type}" if high else f"must be 0, {loss_type} does not use it"
    known = loss_type in LOSSES
    return [
        (known, f"loss_type: {loss_type!r} is none of {', '.join(LOSSES)}"),
        (not known or smooth, f"label_smoothing: {label_smoothing} {wanted}"),
        (discopop_tau > 0, f"discopop_tau: {discopop_tau} is not above 0"),
        (
            loss_type not in BY_BATCH or batch_size >= 2,
            f"batch_size: {loss_type} compares the pairs of a batch, so it takes at least 2, not {batch_size}",
        ),
    ]
