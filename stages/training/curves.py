"""Curves of a training, by step."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from dvclive.huggingface import DVCLiveCallback

from stages.core.progress import Progress

KEPT = re.compile(r"(eval_)?(loss|grad_norm|learning_rate|mean_token_accuracy|rewards/\w+)")


class Curves(DVCLiveCallback):  # type: ignore[misc, unused-ignore]
    """DVCLive callback that keeps KEPT by step, without clock times: the same run writes the same bytes.

    A training that continues writes its early points again, from the checkpoint. `folder` is emptied first.
    """

    def __init__(self, folder: Path, stage: str):
        self.stage = stage
        self.first = not int(os.environ.get("RANK", 0))  # of the processes; the others write nothing
        if "DVC_EXP_NAME" not in os.environ:
            os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")  # a plain `dvc repro` is not an experiment of its own
        if self.first and folder.exists():
            shutil.rmtree(folder)
        super().__init__(live=Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None))

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

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log what the trainer logs."""
        self.log(state.global_step, kwargs.get("logs") or {})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the points of a checkpoint again."""
        self.progress = Progress(f"{self.stage}: steps", state.max_steps)
        for entry in state.log_history:
            self.log(entry["step"], entry)
        self.progress.done = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the progress."""
        self.progress.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave it to the stage to end the curves: the last evaluation is still to come."""
