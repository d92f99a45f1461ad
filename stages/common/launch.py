"""Training on several processes, by accelerate: DDP, FSDP or DeepSpeed, on one machine or many, as its config file says."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stages.common.errors import UserError

_MARK = "STAGE_LAUNCHED"


def launched(config: str | None, module: str) -> bool:
    """Run `module` with this process's arguments under `accelerate launch`, where `config` names a file of accelerate's.

    Returns:
        True where that was done and nothing is left to do; False where this process is to do the work.
    Raises:
        UserError: the first error that one of the processes told; accelerate did not start, or not as many processes.
    """
    if not config:
        return False
    if not Path(config).is_file():
        raise UserError(f"train.accelerate_config: {config}: no such file; make one with `accelerate config`, or set null")
    settings: Any = OmegaConf.load(config)
    if _MARK in os.environ:
        wanted, found = settings.get("num_processes", 1), int(os.environ.get("WORLD_SIZE", 1))
        if wanted != found:  # accelerate runs one, without a word, for a kind of training that it cannot launch
            raise UserError(f"{config}: num_processes is {wanted}, accelerate started {found}; is distributed_type right?")
        return False
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    command += [] if "main_process_port" in settings else ["--main_process_port", "0"]  # any that is free
    command += ["-m", module, *sys.argv[1:]]
    held: list[str] = []  # from the first fault on, what is said is the launcher's report of it
    env = {**os.environ, _MARK: "1"}
    if settings.get("use_cpu"):
        env["ACCELERATE_USE_CPU"] = "true"  # its launcher for several processes does not hand that on
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as child:
        try:
            for line in child.stderr or ():
                if held or line.startswith(("error: ", "Traceback", "usage: ")):
                    held.append(line.strip())
                else:
                    sys.stderr.write(line)
        except KeyboardInterrupt:
            child.terminate()
            raise
    if child.returncode:
        told = [line.removeprefix("error: ") for line in held if line.startswith("error: ")]
        raise UserError(told[0] if told else f"accelerate launch ended with code {child.returncode}: {' '.join(held[-1:])}")
    return True
