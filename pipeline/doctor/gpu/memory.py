"""Does a training step take the memory that is foretold, and does the batch fit that the out-of-memory advice names?

rows = compare_memory(Trial(device="cuda", scale=FULL, folder=folder), 0)
"""

import gc
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.doctor.accelerator import step_memory
from pipeline.doctor.gpu.synthetic_run import config_of, last_line, run_train, training_run
from pipeline.doctor.gpu.trial import Preset, Row, Trial, judged, measured, skipped
from pipeline.training.dry_run import PEAK_MEMORY
from pipeline.training.out_of_memory import is_out_of_memory
from utils.devices import choose_dtype, peak_memory, resolve_device
from utils.errors import PipelineError
from utils.terminal import format_bytes

NEAR = 0.10  # of the measured peak
STEPS = 5
CPU_ROOM = 100 << 20  # bytes; several times what a rehearsal's step takes
PROCESS_STATUS = Path("/proc/self/status")
UNITS = ("B", "KB", "MB", "GB", "TB")
_FIGURE = re.compile(rf"{PEAK_MEMORY}: ([\d.]+) ([KMGT]?B)")
_ADVICE = re.compile(r"training\.batch_size=(\d+) .*gradient_accumulation_steps=(\d+)")


def compare_memory(trial: Trial, number: int) -> list[Row]:
    """The peak of a real run of preset `number` against the figures of ``model.py --summary`` and ``--dry-run``.

    On a CPU the peak is that of the whole process, torch itself included, so it is shown and not judged.
    """
    preset = trial.scale.presets[number]
    device = resolve_device(trial.device)
    promised = dry_run_figure(trial, preset)
    with training_run(trial, preset) as trainer:
        for _ in range(STEPS):
            trainer.train_step()
        trainer.score_validation(1)
        peak = peak_memory(device)
    size = choose_dtype("auto", device).itemsize
    estimate = estimated_memory(trial, preset, size)
    return [
        _memory_row(f"{preset.name}, --summary", estimate, peak, device),
        _memory_row(f"{preset.name}, --dry-run", promised, peak, device),
    ]


def dry_run_figure(trial: Trial, preset: Preset) -> int:
    """What ``train.py --dry-run`` says of the memory, in a process of its own."""
    code, output = run_train(trial, preset, "--dry-run")
    match = _FIGURE.search(output)
    if match is None:
        raise PipelineError(f"train.py --dry-run ended with {code} and no figure: {last_line(output)}")
    return int(float(match[1]) * 1024 ** UNITS.index(match[2]))


def estimated_memory(trial: Trial, preset: Preset, bytes_per_value: int) -> int:
    return step_memory(config_of(trial, preset), bytes_per_value)


def _forget_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _memory_row(what: str, foretold: int, peak: int, device: torch.device) -> Row:
    apart = foretold / peak - 1
    found = f"{format_bytes(foretold)}, peak {format_bytes(peak)} ({apart:+.0%})"
    if device.type != "cuda":
        return measured(what, found, foretold=foretold, peak=peak)
    return judged(what, found, f"within {NEAR:.0%}", abs(apart) <= NEAR, foretold=foretold, peak=peak)


def follow_advice(trial: Trial) -> list[Row]:
    """Run out of memory, take the batch size that the error names, and train with it in the same memory."""
    preset = trial.scale.presets[0]
    device = resolve_device(trial.device)
    if device.type != "cuda" and not PROCESS_STATUS.exists():
        return [skipped("out of memory", "the CPU's memory can be limited on Linux only")]
    with training_run(trial, preset, "training.compile=off") as trainer:
        trainer.train_step()  # what is loaded and allocated once is there before the limit
    del trainer
    _forget_peak(device)
    normal = config_of(trial, preset).training.batch_size
    room = CPU_ROOM if device.type != "cuda" else estimated_memory(trial, preset, 2)
    too_many = (4 if device.type == "cuda" else 64) * normal
    with limited_memory(device, room):
        error = _error_of(trial, preset, f"training.batch_size={too_many}")
        advice = _ADVICE.search(error)
        if advice is None:
            return [Row("out of memory", error or "the step fits", "an error that names a batch", "fail")]
        _forget_peak(device)
        batch, accumulated = advice.groups()
        again = _error_of(
            trial, preset, f"training.batch_size={batch}", f"training.gradient_accumulation_steps={accumulated}"
        )
    found = f"{batch} of {too_many} rows advised, {'out of memory again' if again else 'they fit'}"
    return [judged("out of memory", found, "the advised batch fits", not again, rows=int(batch))]


def _error_of(trial: Trial, preset: Preset, *settings: str) -> str:
    """What two training steps end with, an empty string if they fit."""
    try:
        with training_run(trial, preset, "training.compile=off", *settings) as trainer:
            for _ in range(2):
                trainer.step_or_explain()
    except PipelineError as error:
        return str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory outside of the step"
    return ""


@contextmanager
def limited_memory(device: torch.device, room: int) -> Iterator[None]:
    """While the block runs, this process gets `room` bytes: on a GPU in all, on the CPU besides what it has now."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mapped_bytes() -> int:
    lines = PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
