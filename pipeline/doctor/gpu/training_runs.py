"""Check training on the device: compiled, resumed, with parts loaded ahead, and with too many processes.

rows = compare_compiled(Trial(device="cuda", scale=FULL, folder=folder))
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from pipeline.configuration import CHECKOUT
from pipeline.dataloading.batch import Batch, as_batch
from pipeline.doctor.gpu.correctness import difference, flat
from pipeline.doctor.gpu.synthetic_run import last_line, run_train, training_run
from pipeline.doctor.gpu.trial import Row, Trial, judged, measured
from pipeline.training.trainer import Trainer
from utils.devices import resolve_device

COMPILED_FLOAT32 = 2e-3  # largest difference of a loss, in nats
COMPILED_BFLOAT16 = 5e-2
RESUMED_ON_GPU = 1e-2  # sums by atomic additions come in another order each time
LOADING_SHARE = 0.05


def compare_compiled(trial: Trial) -> list[Row]:
    """The same steps compiled and not; their losses stay together, and fall."""
    preset = trial.scale.presets[0]
    losses = {}
    for mode in ("off", "on"):
        with training_run(trial, preset, f"training.compile={mode}") as trainer:
            is_float32 = trainer.model.dtype == torch.float32
            losses[mode] = [trainer.train_step() for _ in range(trial.scale.steps)]
    apart = largest_difference(losses["on"], losses["off"])
    limit = COMPILED_FLOAT32 if is_float32 else COMPILED_BFLOAT16
    name = f"{trial.scale.steps} steps of {preset.name}"
    return [
        _losses_row(f"{name}, compiled against eager", apart, limit),
        _falling_row(f"{name}, loss", losses["on"]),
    ]


def compare_resumed(trial: Trial) -> list[Row]:
    """A run that was interrupted and resumed, against one that was not."""
    preset = trial.scale.presets[0]
    half = trial.scale.steps // 2
    with training_run(trial, preset) as trainer:
        straight = [trainer.train_step() for _ in range(2 * half)][half:]
        weights = flat(list(trainer.model.parameters())).cpu()
    with training_run(trial, preset, writes=True) as trainer:
        for _ in range(half):
            trainer.train_step()
        trainer.save()
        folder = trainer.run.folder
    with training_run(trial, preset, resume=folder, writes=True) as trainer:
        resumed = [trainer.train_step() for _ in range(half)]
        apart = difference(flat(list(trainer.model.parameters())), weights)
    limit = RESUMED_ON_GPU if resolve_device(trial.device).type == "cuda" else 0.0
    return [
        _losses_row(f"{half} resumed steps", largest_difference(resumed, straight), limit),
        measured("weights after resuming", f"{apart:.1e} apart", difference=apart),
    ]


def measure_parts(trial: Trial) -> list[Row]:
    """What the loader adds to a step while the next part of the data is loaded, as a share of the step."""
    preset = trial.scale.presets[0]
    with training_run(trial, preset, "training.compile=off", "dataset.parts=32") as trainer:
        parts = trainer.data.training.state_dict()["num_parts"]
        num_steps = len(trainer.data.training) // parts + 5  # beyond the end of a part
        batches = _endless_batch(trainer)
        _seconds_of_steps(trainer, batches, 3)
        still = _seconds_of_steps(trainer, batches, num_steps)
        batches = (as_batch(item, trainer.device) for item in trainer.data.training)
        _seconds_of_steps(trainer, batches, 1)  # reads the first part in the foreground; the second is on its way now
        loaded = _seconds_of_steps(trainer, batches, num_steps)
    share = max(0.0, 1 - still / loaded)
    found = f"{share:.1%} of {num_steps} steps, {parts} parts"
    if resolve_device(trial.device).type != "cuda":
        return [measured("loading ahead", found, share=share)]
    return [judged("loading ahead", found, f"at most {LOADING_SHARE:.0%}", share <= LOADING_SHARE, share=share)]


def _endless_batch(trainer: Trainer) -> Iterator[Batch]:
    batch = trainer.synthetic_batch(trainer.config.batch_size)
    while True:
        yield batch


def _seconds_of_steps(trainer: Trainer, batches: Iterator[Batch], num_steps: int) -> float:
    """How long forward and backward over the next batches take."""
    start = time.perf_counter()
    for batch in islice(batches, num_steps):
        count = torch.tensor(float(batch["input_ids"].numel()), device=trainer.device)
        trainer.backward([batch], count).item()  # waits for the device
        trainer.model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def start_too_many_processes(trial: Trial) -> list[Row]:
    """One process more than there are GPUs is refused in one line. On a CPU two processes train together."""
    if resolve_device(trial.device).type != "cuda":
        code, output = launch(trial, 2)
        return [_process_row("two processes on the CPU", code, output, expected_code=0, text="done: 2 steps")]
    count = torch.cuda.device_count()
    code, output = launch(trial, count + 1)
    rows = [_process_row(f"{count + 1} processes, GPUs: {count}", code, output, expected_code=1, text="lower --nproc")]
    if count > 1:
        code, output = launch(trial, 2)
        rows.append(_process_row("two GPUs", code, output, expected_code=0, text="done: 2 steps"))
    return rows


def launch(trial: Trial, num_processes: int) -> tuple[int, str]:
    """Train for two steps in so many processes, as ``main.py train --nproc`` starts them: exit code and output."""
    launcher = CHECKOUT / "pipeline" / "training" / "launch.py"
    settings = ("training.max_steps=2", "training.compile=off", "training.batch_size=2")
    starter = (str(launcher), "--standalone", f"--nproc-per-node={num_processes}")
    return run_train(trial, trial.scale.presets[0], *settings, starter=starter)


def _process_row(what: str, code: int, output: str, *, expected_code: int, text: str) -> Row:
    is_right = code == expected_code and text in output
    found = f"exit {code}, {text!r}" if text in output else f"exit {code}, {last_line(output):.60}"
    return judged(what, found, f"exit {expected_code}, {text!r}", is_right, code=code)


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))


def _losses_row(what: str, apart: float, limit: float) -> Row:
    expected = f"at most {limit:g}" if limit else "exactly equal"
    return judged(what, f"losses {apart:.1e} apart", expected, apart <= limit, difference=apart)


def _falling_row(what: str, losses: Sequence[float]) -> Row:
    found = f"{losses[0]:.3f} to {losses[-1]:.3f}"
    return judged(what, found, "it falls", losses[-1] < losses[0], last=losses[-1])
