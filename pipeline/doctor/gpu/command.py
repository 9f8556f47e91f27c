"""``main.py doctor --gpu``: is there a GPU, which steps, where the report goes.

code = check_gpu(Request(rehearse=True), config)
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.configuration import Config
from pipeline.doctor.accelerator import find_gpus
from pipeline.doctor.gpu.check import Plan, Result, as_json, has_failed, progress, run_steps, table
from pipeline.doctor.gpu.steps import GROUPS, chosen_steps
from pipeline.doctor.packages import torch_cuda
from utils.errors import PipelineError
from utils.files import make_folder, write_json
from utils.packages import is_installed


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    rehearse: bool = False  # small sizes on the CPU
    only: list[str] = field(default_factory=list)  # steps or groups
    nanogpt: Path | None = None
    nanochat: Path | None = None
    output: Path | None = None  # None: in paths.benchmark_dir
    as_json: bool = False


def check_gpu(request: Request, config: Config) -> bool:
    """Run the steps, print the table, write the report; whether no step has failed.

    Raises:
        PipelineError: there is no GPU that torch can use; says what would be run.
        UsageError: no such step.
    """
    if not is_installed("torch"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    device = "cpu" if request.rehearse else "cuda"
    plan = Plan(device, rehearse=request.rehearse, nanogpt=request.nanogpt, nanochat=request.nanochat)
    steps = chosen_steps(request.only, clones=plan.clones)
    if not request.rehearse:
        refuse_without_gpu(len(steps))
    path = request.output or report_path(config.paths.benchmark_dir, rehearse=request.rehearse)
    make_folder(path.parent)  # before minutes are spent

    def show(number: int, result: Result) -> None:
        print(progress(number, len(steps), result), file=sys.stderr, flush=True)

    results = run_steps(steps, plan, on_result=show)
    content = as_json(results, plan)
    write_json(path, content)
    print(json.dumps(content, indent=2) if request.as_json else report(results, plan, path))
    return not has_failed(results)


def refuse_without_gpu(num_steps: int) -> None:
    """Raise PipelineError, in one line, if torch has no GPU here."""
    reason = ""
    if torch_cuda() is None:
        reason = "this PyTorch is built without CUDA"
    elif not find_gpus() and not _torch_finds_one():  # a container may have a GPU without nvidia-smi
        reason = "PyTorch finds no NVIDIA GPU"
    if reason:
        raise PipelineError(
            f"no GPU to check: {reason}; with one, {num_steps} steps would compare and measure {', '.join(GROUPS)}; "
            "run them small on the CPU: python3 main.py doctor --gpu --rehearse"
        )


def _torch_finds_one() -> bool:
    """Asked in another process, so that this one holds no memory of the GPU."""
    script = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def report_path(folder: Path, *, rehearse: bool) -> Path:
    name = "gpu_rehearsal" if rehearse else "gpu_check"
    return folder / f"{name}_{time.strftime('%Y_%m_%d_%H_%M_%S')}.json"


def report(results: list[Result], plan: Plan, path: Path) -> str:
    lines = [table(results), f"report, to attach to an issue: {path}"]
    if plan.rehearse:
        lines.append("a rehearsal on the CPU: the steps work; it says nothing about a GPU")
    return "\n".join(lines)
