"""What is seen of a training while it runs: its curves by step, its progress, and a loss that is no number."""

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from transformers import TrainerCallback

from stages.core.cli import UserError
from stages.core.progress import Progress

KEPT = re.compile(r"(eval_)?(loss|grad_norm|learning_rate|mean_token_accuracy|rewards/\w+)")


class Curves(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Keeps KEPT by step with DVCLive, without clock times: the same run writes the same bytes.

    A training that continues writes its early points again, from the checkpoint. `folder` is emptied first.
    """

    def __init__(self, folder: Path, stage: str):
        self.stage, self.begun = stage, False
        self.first = not int(os.environ.get("RANK", 0))  # of the processes; the others write nothing
        if "DVC_EXP_NAME" not in os.environ:
            os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")  # a plain `dvc repro` is not an experiment of its own
        if self.first and folder.exists():
            shutil.rmtree(folder)
        self.live = Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Log values at a step; names that start with eval_ are of held-out rows."""
        if not self.first:
            return
        self.live.step = step
        for key, value in sorted(values.items()):  # a checkpoint has them sorted
            if isinstance(value, int | float) and KEPT.fullmatch(key):
                name = key.removeprefix("eval_")
                self.live.log_metric(f"{'eval' if key.startswith('eval_') else 'train'}/{name}", float(value))
        self.live.make_summary()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """Log what the trainer logs. Raises UserError for a loss that is no number."""
        self.log(state.global_step, logs)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(
                f"{self.stage}: the loss is {logs['loss']} at step {state.global_step}; lower {self.stage}.learning_rate, "
                "or set train.dtype=float32"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the points of a checkpoint again."""
        self.progress = Progress(f"{self.stage}: steps", state.max_steps, initial=state.global_step)
        for entry in state.log_history:
            self.log(entry["step"], entry)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note that a checkpoint, where there is one, was read."""
        self.begun = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the progress."""
        self.progress.step()
