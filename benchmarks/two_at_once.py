"""Two trainings at once beside one alone, as `dvc queue start -j 2` runs them: seconds, and how soon SIGTERM ends one.

Each is the stage sft on the pipeline's rows, cut to some steps, in a folder of its own. `--spin` measures them as they were
before stages.training had OpenMP's threads sleep while they wait.

Run: python -m benchmarks.two_at_once (needs models/base and data/sft; --steps, --spin)
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import OmegaConf

HERE = Path.cwd()
ARGUMENTS = "--base models/base --train data/sft/train.jsonl --val data/sft/val.jsonl --mix data/mix"
WRITTEN = "--model models/sft --live results/live --metrics results/sft.json"


def workspace(folder: Path, steps: int, save_steps: int) -> Path:
    """A folder to train in, with the repository's params but for `steps`."""
    params = OmegaConf.load("params.yaml")
    OmegaConf.update(params, "sft.max_steps", steps)
    OmegaConf.update(params, "train.save_steps", save_steps)
    for name in ("models", "results"):
        (folder / name).mkdir(parents=True)
    for name in ("models/base", "data", "dvc.yaml"):
        (folder / name).symlink_to(HERE / name)
    OmegaConf.save(params, folder / "params.yaml")
    return folder


def start(folder: Path, spin: bool) -> "subprocess.Popen[bytes]":
    """The stage sft in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(HERE), "DVC_ROOT": str(folder), **({"GOMP_SPINCOUNT": "300000"} if spin else {})}
    command = [sys.executable, "-m", "stages.sft", *shlex.split(f"{ARGUMENTS} {WRITTEN}")]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.DEVNULL)


def seconds(number: int, steps: int, spin: bool) -> float:
    """Wall time of `number` trainings at once."""
    with tempfile.TemporaryDirectory() as tmp:
        folders = [workspace(Path(tmp) / str(n), steps, steps) for n in range(number)]
        began = time.monotonic()
        trainings = [start(folder, spin) for folder in folders]
        if any(training.wait() for training in trainings):
            sys.exit("a training failed; run the stage sft by itself to see why")
        return time.monotonic() - began


def until_ended(spin: bool) -> tuple[float, int]:
    """(seconds from SIGTERM to the end of one of two trainings, its checkpoints)."""
    with tempfile.TemporaryDirectory() as tmp:
        folders = [workspace(Path(tmp) / str(n), 1000, 1) for n in range(2)]
        trainings = [start(folder, spin) for folder in folders]
        while not [*folders[0].glob(".cache/ckpt/sft/*/checkpoint-*/trainer_state.json")]:
            time.sleep(0.2)
        time.sleep(1)  # into the next step
        began = time.monotonic()
        trainings[0].terminate()
        trainings[0].wait()
        took = time.monotonic() - began
        trainings[1].kill()
        trainings[1].wait()
        return took, len([*folders[0].glob(".cache/ckpt/sft/*/checkpoint-*/trainer_state.json")])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--spin", action="store_true")
    a = p.parse_args()
    one, two = (seconds(number, a.steps, a.spin) for number in (1, 2))
    took, kept = until_ended(a.spin)
    print(f"{a.steps} steps: one alone {one:.0f} s, two at once {two:.0f} s, {two / one:.2f} times; "
          f"SIGTERM ends one of two after {took:.1f} s, {kept} checkpoints kept")  # fmt: skip


if __name__ == "__main__":
    main()
