"""What SFT and DPO share: loading, adapters, the order of rows, checkpoints, curves, log-probabilities, saving."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import gguf, prefix
from stages.common.card import end_tokens
from stages.common.engine import GGUF
from stages.common.errors import UserError, one_line
from stages.common.params import require
from stages.common.progress import Progress
from stages.common.records import Record, digest, read_text, root, write_json
from stages.common.rows import RULES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.common.metrics import Array

    LogProbs = list[Array]

AT_ONCE = 8  # rows whose log-probabilities are computed together


@dataclass
class Train:
    """Section `train`: what both trainings share.

    `lora_rank` 0 trains all weights; `lora_layers` adapts the last so many layers, 0 all. `dtype` of the arithmetic.
    `max_length` in tokens; what becomes of longer rows is `too_long` (rows.read). `rows`: shared (tokens that several rows
    of a batch begin with are computed once) or separate. `attention`: sdpa, or flex_attention, which on a GPU skips what a
    token does not see. `save_steps`: steps between checkpoints. `resamples`: of the bootstrap of held-out measures.
    `launch`: the command that runs the training's module, accelerate's to train on several processes. `gguf`: quantisation of the served copy, as
    in base_model.
    """

    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    lora_layers: int
    dtype: str
    max_length: int
    too_long: str
    rows: str
    attention: str
    gradient_checkpointing: bool
    save_steps: int
    resamples: int
    launch: str
    gguf: str

    def __post_init__(self) -> None:
        require(
            (self.lora_rank >= 0, f"lora_rank: {self.lora_rank} is below 0"),
            (self.lora_layers >= 0, f"lora_layers: {self.lora_layers} is below 0"),
            (self.dtype in ("bfloat16", "float32"), f"dtype: {self.dtype!r} is neither bfloat16 nor float32"),
            (self.max_length >= 2, f"max_length: {self.max_length} is below 2"),
            (self.too_long in RULES, f"too_long: {self.too_long!r} is neither {' nor '.join(RULES)}"),
            (self.rows in ("shared", "separate"), f"rows: {self.rows!r} is neither shared nor separate"),
            (self.attention in prefix.ATTENTION, f"attention: {self.attention!r} is none of {', '.join(prefix.ATTENTION)}"),
            (self.save_steps >= 1, f"save_steps: {self.save_steps} is not at least 1"),
            (self.resamples >= 1, f"resamples: {self.resamples} is not at least 1"),
        )


def load(folder: Path, train: Train) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model and tokenizer of a local folder, safetensors only, no remote code; ready for `collator(train, ...)`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.utils import add_fused_lm_head

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, train.dtype), use_safetensors=True, attn_implementation=train.attention
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: cannot be loaded as a model: {one_line(e)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if train.rows == "shared":
        prefix.share(model)
    add_fused_lm_head(model)  # the trainers put theirs over it; before and after training, log_probs needs this one
    if torch.cuda.is_available():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return model, tokenizer


def adapter(train: Train, model: Any) -> Any:
    """LoRA configuration over the linear layers of (the last) transformer blocks, or None for full training.

    Nothing below the lowest adapted block is differentiated, which is what makes `lora_layers` cheap.
    """
    if not train.lora_rank:
        return None
    import torch
    from peft import LoraConfig

    blocks = model.config.num_hidden_layers
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    return LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=sorted(linear),
        layers_to_transform=list(range(max(0, blocks - train.lora_layers), blocks)) if train.lora_layers else None,
        task_type="CAUSAL_LM",
    )


def arguments(stage: Any, train: Train, rows: int, folder: Path, what: str) -> dict[str, Any]:
    """Settings of TRL's trainers that SFT and DPO share. `stage`: section `sft` or `dpo`; `rows` to train on.

    A step is `batch_size` x `accumulation` rows on however many processes, so their number changes no result.
    """
    import torch

    processes = int(os.environ.get("WORLD_SIZE", 1))
    if stage.accumulation % processes:
        raise UserError(f"{what}.accumulation: {stage.accumulation} is not a multiple of the {processes} processes")
    steps = math.ceil(math.ceil(rows / (stage.batch_size * stage.accumulation)) * stage.epochs)
    return {
        "output_dir": str(folder),
        "seed": stage.seed,
        "data_seed": stage.seed,
        "num_train_epochs": stage.epochs,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.scheduler,
        "warmup_steps": min(math.ceil(stage.warmup_share * steps), steps - 1),  # whose first step has rate 0
        "per_device_train_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.accumulation // processes,
        "max_length": None,  # rows.read has seen to it
        "bf16": train.dtype == "bfloat16" and torch.cuda.is_available(),
        "gradient_checkpointing": train.gradient_checkpointing,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }


def order(rows: list[Record], size: int, seed: int, epoch: int, *, shared: bool) -> list[int]:
    """Order of `rows` in an epoch, for batches of `size`: by draw, but so that a batch is cheap.

    Shared: the rows of a conversation one after another, and in one batch where they fit. Separate: like lengths together.
    """
    rng = random.Random(f"{seed} {epoch}")
    if not shared:
        drawn = rng.sample(range(len(rows)), len(rows))
        spans = [drawn[i : i + 50 * size] for i in range(0, len(drawn), 50 * size)]
        lengths = [sum(len(ids) for ids in r.values() if isinstance(ids, list)) for r in rows]
        sorted_spans = [sorted(span, key=lambda i: -lengths[i]) for span in spans]
        batches = [span[i : i + size] for span in sorted_spans for i in range(0, len(span), size)]
        last = batches.pop() if len(batches[-1]) < size else []
        return [i for batch in [*rng.sample(batches, len(batches)), last] for i in batch]
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["conversation"], []).append(i)
    waiting = rng.sample(list(groups.values()), len(groups))
    found: list[int] = []
    while waiting:
        room = size - len(found) % size
        found += waiting.pop(next((i for i, group in enumerate(waiting) if len(group) <= room), 0))
    return found


def exact(base: Any, rows: list[Record], size: int, seed: int, *, shared: bool) -> Any:
    """TRL trainer `base`, given rows that are tokens already: it prepares nothing, and takes them in our order."""
    from torch.utils.data import Sampler

    class Order(Sampler[int]):  # type: ignore[misc, unused-ignore]
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(rows)

        def __iter__(self) -> Iterator[int]:
            return iter(order(rows, size, seed, self.epoch, shared=shared))

    class Exact(base):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset  # its columns are there: the model's own, from before it was changed

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return Order()

        def create_model_card(self, *_: Any, **__: Any) -> None:
            pass  # of checkpoints

    return Exact


def collator(train: Train, pad: int) -> Callable[[list[Record]], Any] | None:
    """What makes batches of supervised rows or of pairs; None: TRL's own."""
    return prefix.Collator(pad) if train.rows == "shared" else None


def log_probs(model: Any, rows: list[Record], train: Train, pad: int, *, spread: bool = False) -> "LogProbs":
    """log p of each token of the reply, in nats, for each of the supervised `rows`.

    Args:
        spread: each process takes a part of the rows; not for a model that is itself spread over the processes.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = collator(train, pad) or DataCollatorForLanguageModeling(pad_token_id=pad)
    state = PartialState()
    starts = list(range(0, len(rows), AT_ONCE))
    found = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in starts[state.process_index :: state.num_processes] if spread else starts:
            batch = {k: v.to(model.device) for k, v in collate(rows[start : start + AT_ONCE]).items()}
            mask = batch["labels"][:, 1:] != prefix.IGNORED
            values = model(**batch, fused_lm_head=True).log_probs
            found += [(start + i, v[m].double().cpu().numpy()) for i, (v, m) in enumerate(zip(values, mask, strict=True))]
    model.train(was_training)
    if spread and state.num_processes > 1:
        found = gather_object(found)
    return [values for _, values in sorted(found, key=lambda pair: pair[0])]


def made_from(stage: str, settings: Any, *inputs: Path) -> Record:
    """All that determines what training makes, for the name of its checkpoints: params, inputs, code and versions."""

    def sha256(*files: Path) -> str:
        total = hashlib.sha256()
        for file in files:
            with file.open("rb") as f:
                total.update(hashlib.file_digest(f, "sha256").digest())
        return total.hexdigest()

    here = Path(__file__).parent
    code = [here / f"{name}.py" for name in ("training", "prefix", "rows")]
    return {
        "stage": stage,
        "params": asdict(settings),
        "inputs": [sha256(*(sorted(p.glob("*.safetensors")) if p.is_dir() else [p])) for p in inputs],
        "code": sha256(*code, here.parent / f"{stage}.py"),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")},
    }


@contextlib.contextmanager
def checkpoints(made: Record) -> Iterator[Path]:
    """Folder for the checkpoints of a training, shared by all workspaces of this repository; gone once the block ends well.

    A second process that trains the same waits.

    Raises:
        UserError: the folder holds checkpoints of something else.
    """
    folder = root().absolute() / "ckpt" / made["stage"] / digest(made)[:16]
    if int(os.environ.get("RANK", 0)):
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = folder / "made_from.json"
        folder.mkdir(exist_ok=True)  # whoever was waited for has removed it
        if note.exists() and json.loads(read_text(note)) != made:
            raise UserError(f"{folder}: holds checkpoints of other params or inputs; delete the folder")
        write_json(note, made)
        for part in folder.glob("checkpoint-*"):
            if not (part / "trainer_state.json").exists():  # written last
                shutil.rmtree(part)
        yield folder
        shutil.rmtree(folder)


def fit(trainer: Any, folder: Path, what: str) -> None:
    """Train, from the newest checkpoint in `folder` where there is one.

    Raises:
        UserError: out of memory; a loss that is no number; a checkpoint that cannot be read.
    """
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        begun = False

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not math.isfinite((logs or {}).get("loss", 0.0)):
                raise UserError(
                    f"{what}: the loss is {logs['loss']} at step {state.global_step}; lower {what}.learning_rate, "
                    "or set train.dtype=float32"
                )

    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if trainer.args.world_size != wanted:
        raise UserError(
            f"{what}: {wanted} processes were started, but each trains alone; is the config file in train.launch right? "
            "On CPUs: distributed_type: MULTI_GPU and use_cpu: true, started with ACCELERATE_USE_CPU=true"
        )
    trainer.add_callback(watch := Watch())
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    if last:
        print(f"{what}: continues from {Path(last).name}", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=last)
    except UserError:
        raise
    except Exception as e:
        if isinstance(e, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(e):
            raise UserError(
                f"{what}: out of memory; lower {what}.batch_size (and raise {what}.accumulation), train.max_length or "
                "train.lora_rank, or set train.gradient_checkpointing=true"
            ) from None
        if last and not watch.begun:
            raise UserError(f"{last}: cannot be continued from: {one_line(e)}; delete the folder") from None
        raise


def curves(folder: Path, what: str) -> Any:
    """DVCLive callback that keeps what is looked at, by step (no clock times: the same run, the same bytes).

    A training that continues writes its early points again, from the checkpoint.
    """
    if "DVC_EXP_NAME" not in os.environ:
        os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")  # a plain `dvc repro` is not an experiment of its own
    from dvclive import Live
    from dvclive.huggingface import DVCLiveCallback

    kept = re.compile(r"(eval_)?(loss|grad_norm|learning_rate|mean_token_accuracy|rewards/\w+)")

    class Curves(DVCLiveCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.log(state.global_step, kwargs.get("logs") or {})

        def log(self, step: int, values: dict[str, Any]) -> None:
            """Values at a step; names that start with eval_ are of held-out rows."""
            if int(os.environ.get("RANK", 0)):
                return
            self.live.step = step
            for key, value in sorted(values.items()):  # a checkpoint has them sorted
                if isinstance(value, int | float) and kept.fullmatch(key):
                    name = key.removeprefix("eval_")
                    self.live.log_metric(f"{'eval' if key.startswith('eval_') else 'train'}/{name}", float(value))
            self.live.make_summary()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.progress = Progress(f"{what}: steps", state.max_steps)
            for entry in state.log_history:
                self.log(entry["step"], entry)
            self.progress.done = state.global_step

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.progress.step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass  # the stage ends it, after the last evaluation

    if not int(os.environ.get("RANK", 0)) and folder.exists():
        shutil.rmtree(folder)
    return Curves(live=Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None))


def save(trainer: Any, tokenizer: Any, template: Path, out: Path, train: Train, scratch: Path, readme: str) -> None:
    """Write a plain Hugging Face folder, adapters merged, and the GGUF that serves it.

    Args:
        template: the base's folder.
        scratch: where the parts of a model that is spread over processes are put together.
        readme: the model's card.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(scratch / "whole"))  # takes every process
        if trainer.is_world_process_zero():
            model = whole(scratch / "whole", trainer.model.config._name_or_path)
    if not trainer.is_world_process_zero():
        return
    made = out.with_name(f".{out.name}.new")
    if made.exists():
        shutil.rmtree(made)
    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()  # in float32: a bfloat16 sum would round the adapter away
    end_tokens(model, tokenizer)
    kept = json.loads(read_text(template / "config.json")).get("dtype") or train.dtype
    model.to(getattr(torch, kept)).save_pretrained(made)
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text(readme, encoding="utf-8")
    if train.gguf != "none" and (template / GGUF).exists():
        gguf.export(made, template / GGUF, made / GGUF, train.gguf)
    if out.exists():
        shutil.rmtree(out)
    made.replace(out)


def whole(folder: Path, base: str) -> Any:
    """The model that a trainer saved into `folder`, whole or as an adapter of `base`, on the CPU."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if (folder / "adapter_config.json").exists():
        plain = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
        return PeftModel.from_pretrained(plain, folder, use_safetensors=True)
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
