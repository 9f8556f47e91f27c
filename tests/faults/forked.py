"""Run a stage in a forked process, so that nothing is imported twice."""

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.layer import KILLED, Fault, FaultLayer
from utils.cli import exit_code_of

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Finished:
    """The result of a stage. `trace` has its file operations (empty if a fault ended it)."""

    code: int
    output: str
    errors: str
    fired: bool
    trace: list[str]

    @property
    def killed(self) -> bool:
        return self.code == KILLED

    @property
    def warnings(self) -> list[str]:
        return [line for line in f"{self.output}\n{self.errors}".splitlines() if "warning: " in line]

    @property
    def refusal(self) -> str:
        """The stage's one-line error, or an empty string if it ended differently."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        is_clean = "this is a bug" not in self.errors and "Traceback" not in self.errors
        return lines[0] if self.code == 1 and len(lines) == 1 and is_clean else ""


def run_forked(stage: Callable[[], int], root: Path, scratch: Path, fault: Fault | None = None) -> Finished:
    """Run `stage` in the folder `root` with `fault`; `scratch` is a folder for this run only."""
    scratch.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        _run(stage, root, scratch, fault)
    _, status = os.waitpid(process, 0)
    trace = scratch / "trace.json"
    output, errors = ((scratch / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    return Finished(
        os.waitstatus_to_exitcode(status),
        output,
        errors,
        (scratch / "fired").exists(),
        json.loads(trace.read_text()) if trace.exists() else [],
    )


def _run(stage: Callable[[], int], root: Path, scratch: Path, fault: Fault | None) -> None:
    code = 1
    try:
        signal.alarm(_TIMEOUT_SECONDS)  # a hanging stage is killed by a signal
        os.chdir(root)
        random.seed(0)  # checkpoints contain the state of both generators, which is random in a new process
        np.random.seed(0)
        for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
            stream.flush()
            target = os.open(scratch / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(target, stream.fileno())
        layer = FaultLayer(root, scratch, fault)
        layer.install()
        code = exit_code_of(stage)
        layer.end()
        (scratch / "trace.json").write_text(json.dumps(layer.trace))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
