"""The GPU's check: every step in a process of its own, one after the other, then a table and a JSON file.

    results = run_steps(chosen_steps([]), plan, on_result=print)
    print(table(results))

A step that crashes, hangs or runs out of memory becomes a row with the verdict `error`; the next one starts all the
same. This file imports no torch: the steps' processes have the GPU to themselves.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.configuration import CHECKOUT
from pipeline.doctor.gpu.steps import GROUPS, Step
from pipeline.doctor.gpu.trial import FAILURES, Row
from utils.terminal import format_seconds, styled

LOG_LINES = 40  # of a failed step's output, in the JSON file
_COLUMNS = (27, 21, 16, 9)  # what, found, expected, verdict: 79 columns with what is between them
_COLOURS = {"pass": "green", "fail": "red", "error": "red", "below aim": "yellow", "skipped": "dim", "measured": ""}


@dataclass(frozen=True)
class Plan:
    """What all steps are started with."""

    device: str
    rehearse: bool = False
    nanogpt: Path | None = None
    nanochat: Path | None = None
    starter: Sequence[str] = (sys.executable, "-m", "pipeline.doctor.gpu.step_process")

    @property
    def clones(self) -> list[str]:
        """Other programs that can be compared with."""
        return [name for name, folder in (("nanogpt", self.nanogpt), ("nanochat", self.nanochat)) if folder]


@dataclass(frozen=True)
class Result:
    """One step's rows, how long it took, and what it printed last if it failed."""

    step: str
    group: str
    rows: list[Row]
    seconds: float
    log: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        return any(row.verdict in FAILURES for row in self.rows)


def run_steps(
    steps: Sequence[Step], plan: Plan, *, on_result: Callable[[int, Result], None] = lambda number, result: None
) -> list[Result]:
    """Run `steps` one after the other; `on_result` is called with each step's number, from 1, and its result."""
    results = []
    with tempfile.TemporaryDirectory(prefix="doctor_gpu_") as folder:
        for number, step in enumerate(steps, 1):
            results.append(run_step(step, plan, Path(folder)))
            on_result(number, results[-1])
    return results


def run_step(step: Step, plan: Plan, folder: Path) -> Result:
    """Run `step` in a process of its own."""
    answer = folder / f"{step.name}.json"
    command = [*plan.starter, step.name, "--device", plan.device]
    command += ["--folder", str(folder), "--result", str(answer)]
    command += ["--rehearse"] if plan.rehearse else []
    for name, clone in (("--nanogpt", plan.nanogpt), ("--nanochat", plan.nanochat)):
        command += [name, str(clone.absolute())] if clone else []
    start = time.monotonic()
    ending, log = _run(command, _environment(step, plan, folder), step.seconds)
    seconds = time.monotonic() - start
    versions: dict[str, str] = {}
    rows = [Row(step.name, ending, "a result", "error")]
    if answer.exists():
        content = json.loads(answer.read_text(encoding="utf-8"))
        versions = content["versions"]
        rows = [Row(**row) for row in content["rows"]]
    is_failed = any(row.verdict in FAILURES for row in rows)
    return Result(
        step.name, step.group, rows, seconds, "\n".join(log.splitlines()[-LOG_LINES:]) if is_failed else "", versions
    )


def _environment(step: Step, plan: Plan, folder: Path) -> dict[str, str]:
    """Compiled code is shared by the steps, except by those that time the compiling."""
    cache = folder / (f"compiled_{step.name}" if step.group == "speed" else "compiled")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    if plan.rehearse:
        environment["OMP_NUM_THREADS"] = "1"  # small products only wait for other threads
    return environment


def _run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[str, str]:
    """How the process ended, in words, and all that it printed. It and what it started are gone afterwards."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException as error:  # Ctrl-C too
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"no result within {format_seconds(seconds)}", output
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it left running
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}", output
    return f"exit {process.returncode} without a result", output


def progress(number: int, total: int, result: Result) -> str:
    """One line for a step that is done."""
    verdicts = dict.fromkeys(row.verdict for row in result.rows)
    return f"{number:>2}/{total} {result.step}: {', '.join(verdicts)}, {format_seconds(result.seconds)}"


def has_failed(results: Sequence[Result]) -> bool:
    return any(result.has_failed for result in results)


def table(results: Sequence[Result]) -> str:
    """Step, found, expected, verdict, in 80 columns; what is longer continues on the next line."""
    lines = [_cells(("step", "found", "expected", "verdict"), "bold")]
    for group in GROUPS:
        rows = [row for result in results if result.group == group for row in result.rows]
        lines += ["", styled(group, "bold", "cyan")] if rows else []
        lines += [_cells((row.what, row.found, row.expected, row.verdict), _COLOURS[row.verdict]) for row in rows]
    return "\n".join([*lines, "", _summary(results)])


def _cells(texts: Sequence[str], colour: str) -> str:
    """One row of the table; its last cell is coloured."""
    columns = [
        textwrap.wrap(text, width, break_on_hyphens=False) or [""] for text, width in zip(texts, _COLUMNS, strict=True)
    ]
    lines = []
    for number in range(max(map(len, columns))):
        cells = [column[number] if number < len(column) else "" for column in columns]
        *others, verdict = (f"{cell:<{width}}" for cell, width in zip(cells, _COLUMNS, strict=True))
        verdict = styled(verdict.rstrip(), *filter(None, [colour]))
        lines.append("  ".join([*others, verdict]).rstrip())
    return "\n".join(lines)


def _summary(results: Sequence[Result]) -> str:
    verdicts = [row.verdict for result in results for row in result.rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    return f"{counts}; {format_seconds(sum(result.seconds for result in results))}"


def as_json(results: Sequence[Result], plan: Plan) -> dict[str, Any]:
    """Everything that a reader of an issue needs; paths of this machine are only in a failed step's output."""
    versions = next((result.versions for result in results if result.versions), {})
    steps = [{key: value for key, value in asdict(result).items() if key != "versions"} for result in results]
    return {
        "rehearsal": plan.rehearse,
        "versions": dict(versions),
        "failed": has_failed(results),
        "steps": steps,
    }
