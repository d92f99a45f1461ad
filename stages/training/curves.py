"""Curves of a training, by step."""

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.progress import Progress

if TYPE_CHECKING:
    from stages.core.statistics import Array

    LogProbs = list[Array]


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
            self.progress = Progress(f"{what}: steps", state.max_steps, initial=state.global_step)
            for entry in state.log_history:
                self.log(entry["step"], entry)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.progress.step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass  # the stage ends it, after the last evaluation

    if not int(os.environ.get("RANK", 0)) and folder.exists():
        shutil.rmtree(folder)
    return Curves(live=Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None))
