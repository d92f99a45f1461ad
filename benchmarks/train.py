"""Training on conversation trees beside plain TRL: seconds an epoch, peak memory, held-out loss, on the same conversations.

Forms of the same rows, each in a process of its own: TRL as a user would write it; ours with a row per turn (train.rows:
separate); ours with shared prefixes (shared), which puts whole conversations into a step; and, to tell what that order does
by itself, ours with shared prefixes but the rows shuffled (shuffled). Same model, adapter, optimiser, learning rate and rows
a step.

Run: python -m benchmarks.train (needs models/base; --turns, --trees, --a-step, --stages, --forms and --seeds change it)
Of crossed groups of four users: --groups data/pairs/train.jsonl --turns 12 --stages dpo
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stages.core import params
from stages.core.files import Record, digest, read_jsonl, write_jsonl

FORMS = ("plain TRL", "separate", "shared", "shuffled")
HELD_OUT = 2
SYSTEM = "You are a helpful assistant. Answer in one or two short sentences."


def conversations(trees: int, turns: int) -> list[Record]:
    """Pairs at every turn, in the way of the pipeline's trees: one of the two replies goes on. Texts are of the seeds."""
    told = [r["text"].split(". ") for r in read_jsonl(Path("data/seeds/profiles.jsonl"))]
    rows = []
    for n in range(trees):
        chat = [{"role": "system", "content": SYSTEM}]
        for turn in range(turns):
            fact, other = (told[(n + k) % len(told)][turn % 6].strip(".") for k in (0, 7))
            chat = [*chat, {"role": "user", "content": f"{fact}. What would you do in my place this week?"}]
            texts = (
                f"As you say, {fact[0].lower()}{fact[1:]}, so begin with that and ask a friend to help you on Sunday.",
                f"Many people say: {other[0].lower()}{other[1:]}. Write a list and do one thing of it every day.",
            )
            chosen, rejected = ([{"role": "assistant", "content": t}] for t in texts)
            rows.append({"prompt": chat, "chosen": chosen, "rejected": rejected, "completion": chosen})
            chat = chat + (chosen if int(digest(n, turn), 16) % 2 else rejected)
    return rows


def crossed(file: Path) -> list[Record]:
    """The pairs of the crossed groups among DPO's rows in `file`, group by group."""
    return sorted((r for r in read_jsonl(file) if r.get("crossed_group")), key=lambda r: str(r["crossed_group"]))


def plain(stage: str, rows: list[Record], a: argparse.Namespace, folder: str) -> tuple[Any, Any]:
    """TRL as in its documentation, with the same adapter and the same rows a step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from stages.training.model import adapter

    kind, settings = (SFTTrainer, SFTConfig) if stage == "sft" else (DPOTrainer, DPOConfig)
    keys = ("prompt", "completion") if stage == "sft" else ("prompt", "chosen", "rejected")
    model = AutoModelForCausalLM.from_pretrained(a.weights, dtype=getattr(torch, a.dtype), use_safetensors=True)
    lora: LoraConfig = adapter(shared_settings(), model)
    trainer = kind(
        model,
        args=settings(
            output_dir=folder, num_train_epochs=1, learning_rate=a.rate, per_device_train_batch_size=a.batch,
            gradient_accumulation_steps=a.turns * a.a_step // a.batch, seed=a.seed, max_length=4096,
            bf16=a.dtype == "bfloat16", use_cpu=not torch.cuda.is_available(),
            report_to="none", disable_tqdm=True, lr_scheduler_type="cosine", logging_steps=1, save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{k: r[k] for k in keys} for r in rows]),
        processing_class=AutoTokenizer.from_pretrained(a.weights),
        peft_config=lora,
    )  # fmt: skip
    start = time.monotonic()
    trainer.train()
    return trainer.model, time.monotonic() - start


def shared_settings(**changes: Any) -> Any:
    """Section `train` as in params.yaml, but for `changes`."""
    from stages import sft

    return params.load("sft", sft.Params).train.model_copy(update={"max_length": 4096, **changes})


def ours(form: str, stage: str, rows: list[Record], a: argparse.Namespace, folder: str) -> tuple[Any, Any]:
    """The stages' own code; a tree of `a.turns` rows is a batch."""
    import torch
    from torch.utils.data import RandomSampler

    from stages import dpo, sft
    from stages.training import model as models
    from stages.training import trainer
    from stages.training.curves import Curves
    from stages.training.dataset import read, supervised

    module, kind = (sft, trainer.SftTrainer) if stage == "sft" else (dpo, trainer.DpoTrainer)
    p = params.load(stage, module.Params)
    shared = form != "separate"
    size = a.turns if shared else a.batch
    section = getattr(p, stage).model_copy(update={
        "seed": a.seed, "num_train_epochs": 1, "learning_rate": a.rate, "per_device_train_batch_size": size,
        "gradient_accumulation_steps": a.turns * a.a_step // size, "warmup_steps": 0.0,
    })  # fmt: skip
    settings = shared_settings(rows="shared" if shared else "separate", dtype=a.dtype, attn_implementation=a.attention)
    p = p.model_copy(update={"train": settings, stage: section})
    policy, tokenizer = models.load(a.weights, p.train)
    file = Path(folder) / "rows.jsonl"
    write_jsonl(file, rows)
    tokens, _ = read(file, module.KEYS, tokenizer, 4096, "drop")
    start = time.monotonic()
    if stage == "sft":
        tokens = supervised(tokens, "completion")
    else:
        tokens = models.with_reference(policy, tokens, p.train, tokenizer.pad_token_id)
    if form == "shuffled":
        drawn = RandomSampler(tokens, generator=torch.Generator().manual_seed(a.seed))
        kind._get_train_sampler = lambda *_: drawn
    config = trainer.config(stage, section, p.train)
    config.output_dir = str(Path(folder) / "ckpt")
    trained = trainer.fit(policy, tokenizer, tokens, config, p.train, Curves(Path(folder) / "live", stage))
    return trained.model, time.monotonic() - start


def child(form: str, stage: str, a: argparse.Namespace) -> None:
    """Train one form and print its figures."""
    import math

    from transformers import set_seed

    from stages import dpo
    from stages.training import model as models
    from stages.training.dataset import read, supervised

    set_seed(a.seed)
    rows = crossed(a.groups) if a.groups else conversations(a.trees + HELD_OUT, a.turns)
    rows = rows[: (a.trees + HELD_OUT) * a.turns]
    train, held = rows[: a.trees * a.turns], rows[a.trees * a.turns :]
    with tempfile.TemporaryDirectory() as folder:
        model, seconds = plain(stage, train, a, folder) if form == FORMS[0] else ours(form, stage, train, a, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        file = Path(folder) / "held.jsonl"
        write_jsonl(file, held)
        settings = shared_settings(rows="shared")
        reference, tokenizer = models.load(Path("models/base"), settings)
        pad = tokenizer.pad_token_id
        p = params.load("dpo", dpo.Params).model_copy(update={"train": settings})
        tokens, _ = read(file, ("prompt", "chosen", "rejected"), tokenizer, 4096, "drop")
        after = model.merge_and_unload()
        if form in ("plain TRL", "separate"):  # its body must take the batches of Collator
            reference.load_state_dict(after.state_dict())
            after, reference = reference, models.load(Path("models/base"), settings)[0]
        if stage == "sft":
            values = models.log_probs(after, supervised(tokens, "chosen"), settings, pad)
            loss = -sum(float(v.sum()) for v in values) / sum(len(v) for v in values)
        else:
            sums = [
                [float(v.sum()) for v in side]
                for m in (after, reference)
                for side in models.pair_log_probs(m, tokens, settings, pad)
            ]
            gains = [(a - b) - (c - d) for a, b, c, d in zip(*sums, strict=True)]
            loss = sum(math.log1p(math.exp(-p.dpo.beta * g)) for g in gains) / len(gains)
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "loss": loss}))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trees", type=int, default=8)
    p.add_argument("--turns", type=int, default=10, help="rows of a tree, or of a group")
    p.add_argument("--groups", type=Path, help="DPO's rows, whose crossed groups are taken in place of conversations")
    p.add_argument("--a-step", type=int, default=1, help="trees whose rows are a step (paper: 48 rows)")
    p.add_argument("--rate", type=float, default=3e-4)
    p.add_argument("--seeds", type=int, default=1, help="trainings of each form; the table has their means")
    p.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    p.add_argument("--stages", nargs="+", default=["sft", "dpo"])
    p.add_argument(
        "--forms", nargs="+", default=FORMS[:3], choices=FORMS, help="the first is what the others are compared with"
    )
    p.add_argument("--child", nargs=2, metavar=("FORM", "STAGE"), help=argparse.SUPPRESS)
    a = p.parse_args()
    a.weights, a.dtype, a.attention, a.batch = Path("models/base"), "float32", "sdpa", 2  # benchmarks/gpu.py has others
    if a.child:
        child(*a.child, a)
        return
    print(
        f"{a.trees} trees of {a.turns} turns, one epoch, {a.a_step * a.turns} rows a step, {a.seeds} seeds; "
        f"held out: {HELD_OUT} trees"
    )
    print(
        f"{'stage':6}{'form':12}{'s/epoch':>9}{'of first':>10}{'peak MB':>9}{'held-out loss':>15}{'of first':>10}"
        f"{'standard error':>16}"
    )
    for stage in a.stages:
        first: list[Record] = []
        for form in a.forms:
            found = []
            for seed in range(1, a.seeds + 1):
                words = [*sys.argv[1:], "--seed", str(seed), "--child", form, stage]
                done = subprocess.run([sys.executable, "-m", "benchmarks.train", *words], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            first = first or found
            seconds, peak, loss = (statistics.mean(f[k] for f in found) for k in ("seconds", "peak_mb", "loss"))
            faster = statistics.mean(f["seconds"] for f in first) / seconds
            changes = [100 * (f["loss"] / g["loss"] - 1) for f, g in zip(found, first, strict=True)]
            error = f"{statistics.stdev(changes) / a.seeds**0.5:15.2f}%" if a.seeds > 1 else ""
            print(
                f"{stage:6}{form:12}{seconds:9.1f}{faster:9.2f}x{peak:9.0f}{loss:15.4f}{statistics.mean(changes):+9.2f}%{error}",
                flush=True,
            )


if __name__ == "__main__":
    main()
