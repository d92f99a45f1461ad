"""Training on a GPU: tokens a second and share of the card's bf16 peak, ours beside plain TRL, for the default model and 1B.

The rows are those of benchmarks/train.py, a tree of 10 turns a step, in bfloat16. Rate: tokens of the rows as TRL computes
them, one row a reply, over the median time of a step, so that a form which computes less is faster by it. Share of peak:
floating-point operations of the form's own step, counted by torch (of flex attention, which it cannot count, those of sdpa's
step), over that time and the card's dense bf16 peak.

Run: python -m benchmarks.gpu (needs a GPU and models/base; --steps, --forms, --sizes and --stages change it)
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

PEAK = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40": 181.0, "4090": 165.2}  # dense bf16 TFLOP/s, as sold
FLEX = "shared, flex"
FORMS = {"plain TRL": "sdpa", "shared, sdpa": "sdpa", FLEX: "flex_attention"}
SKIPPED = 3  # first steps of a form: kernels are compiled and memory is taken


def model_of(size: str, folder: Path) -> Path:
    """The default model's folder, or one of 1B random weights in the shape of Llama 3.2 with the default's tokenizer."""
    if size == "default":
        return Path("models/base")
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained("models/base")
    shape = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    with torch.device("cuda"):
        model = LlamaForCausalLM(
            LlamaConfig(**shape, intermediate_size=8192, vocab_size=len(tokenizer), tie_word_embeddings=True)
        ).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def addmm(bias: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Operations of a product of shapes `a` and `b`; torch's own count fails where a bias is given by keyword."""
    return int(2 * a[0] * a[1] * b[1])


class Clock:
    """Seconds and, where `counts`, operations of the steps of whatever trainer runs within."""

    def __init__(self, counts: bool):
        self.counts = counts

    def __enter__(self) -> "Clock":
        import torch
        from torch.utils.flop_counter import FlopCounterMode
        from transformers import Trainer

        self.seconds: list[float] = []
        self.operations, plain = 0, Trainer.training_step
        self.undo = lambda: setattr(Trainer, "training_step", plain)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.counts and not self.operations:
                with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm: addmm}) as counted:
                    found = plain(*args, **kwargs)
                self.operations = counted.get_total_flops()
                self.seconds.append(0.0)
                return found
            torch.cuda.synchronize()
            start = time.monotonic()
            found = plain(*args, **kwargs)
            torch.cuda.synchronize()
            self.seconds.append(time.monotonic() - start)
            return found

        Trainer.training_step = timed
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def step(self) -> float:
        """Median seconds of a step (forward and backward), the first ones left out."""
        return statistics.median(self.seconds[SKIPPED:])


def measured(form: str, stage: str, weights: Path, a: argparse.Namespace) -> tuple[Clock, int, float]:
    """The clock of a training, tokens of a step's rows, and peak memory in GB."""
    import torch

    from benchmarks import train as rows_of

    rows = rows_of.conversations(a.steps, a.turns)
    how = argparse.Namespace(turns=a.turns, a_step=1, rate=1e-4, seed=1, weights=weights, dtype="bfloat16",
                             attention=FORMS[form], batch=a.turns)  # fmt: skip
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, Clock(form != FLEX) as clock:
        if form == "plain TRL":
            rows_of.plain(stage, rows, how, folder)
        else:
            rows_of.ours("shared", stage, rows, how, folder)
    return clock, tokens(rows, stage, weights) // a.steps, torch.cuda.max_memory_allocated() / 1e9


def tokens(rows: list[dict[str, Any]], stage: str, weights: Path) -> int:
    """Of all rows, each with its whole prompt; a pair has two."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights)
    replies = ("completion",) if stage == "sft" else ("chosen", "rejected")
    chats = [[*r["prompt"], *r[reply]] for r in rows for reply in replies]
    return sum(len(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]) for chat in chats)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=16)
    p.add_argument("--turns", type=int, default=10)
    p.add_argument("--sizes", nargs="+", default=["default", "1B"])
    p.add_argument("--stages", nargs="+", default=["sft", "dpo"])
    p.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    p.add_argument("--peak", type=float, help="dense bf16 TFLOP/s of the card; known for " + ", ".join(PEAK))
    a = p.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a GPU; benchmarks.train measures on processors")
    card = torch.cuda.get_device_name()
    peak = a.peak or next((v for k, v in PEAK.items() if k in card), None)
    print(f"{card}, torch {torch.__version__}; {a.turns} turns a step, bfloat16, {a.steps} steps")
    print(f"{'model':9}{'stage':6}{'form':14}{'ms/step':>9}{'tokens/s':>11}{'of TRL':>8}{'of peak':>9}{'peak GB':>9}")
    for size in a.sizes:
        with tempfile.TemporaryDirectory() as folder:
            weights = model_of(size, Path(folder))
            for stage in a.stages:
                first, operations = 0.0, 0
                for form in a.forms:
                    clock, count, memory = measured(form, stage, weights, a)
                    seconds, operations = clock.step(), clock.operations or operations
                    first = first or seconds
                    share = f"{operations / seconds / peak / 1e12:9.1%}" if peak else f"{'?':>9}"
                    print(
                        f"{size:9}{stage:6}{form:14}{1e3 * seconds:9.1f}{count / seconds:11,.0f}{first / seconds:7.2f}x"
                        f"{share}{memory:9.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
