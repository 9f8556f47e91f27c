"""Train one rung of a ladder in a folder of its own, or read its result if it is finished.

    result = RungRunner(start, folder, device, val_tokens=10_000, warmup_share=0.01).result(rung)

A rung is an ordinary training run. An interrupted one continues from its checkpoint. `result.json`, written last, marks
it as finished; its checkpoints are then removed.
"""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from pipeline.dataloading.batch import Batch, as_batch
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.run_folders import LATEST_NAME
from pipeline.training.config import TrainingConfig
from pipeline.training.dry_run import seconds_per_step
from pipeline.training.ladder.noise_scale import measure_noise_scale
from pipeline.training.ladder.plan import Rung
from pipeline.training.ladder.rates import config_at_width
from pipeline.training.pretraining import build_model, describe_run, load_data
from pipeline.training.run_info import RunInfo
from pipeline.training.starting_point import Start
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from utils.errors import PipelineError
from utils.files import make_folder, remove_stale_temporaries, write_json
from utils.logging_utils import DualLogger

RESULT_NAME = "result.json"
HOW_TO_CONTINUE = "the same --ladder command"


@dataclass(frozen=True)
class Result:
    """The outcome of a finished rung.

    Attributes:
        loss: of the validation after the last step, in nats per token; infinity if the run diverged.
        bits_per_byte: None if the dataset does not record the bytes of its tokens.
        noise_windows: the gradient noise scale at the end, in windows, if it was measured.
    """

    loss: float
    bits_per_byte: float | None = None
    noise_windows: float | None = None


@dataclass(frozen=True)
class RungRunner:
    """Trains rungs of the configured run `start` below `folder`."""

    start: Start
    folder: Path
    device: torch.device
    val_tokens: int
    warmup_share: float

    def result(self, rung: Rung, *, noise_windows: int = 0) -> Result:
        """The result of `rung`, trained now unless it is finished.

        Args:
            noise_windows: also measure the noise scale on this many windows.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after saving; the next call continues.
        """
        finished = self.finished(rung)
        if finished:
            return finished
        folder = self.folder / rung.name
        trainer = self._trainer(rung, folder)
        with trainer.logger:
            loss = self._fit(trainer)
        noise = None
        if noise_windows and math.isfinite(loss):
            noise = measure_noise_scale(trainer.model, _single_windows(trainer.data, self.device, noise_windows))
        result = Result(loss, trainer.last_validation.get("bits_per_byte"), noise)
        write_result(folder / RESULT_NAME, result)
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
        return result

    def finished(self, rung: Rung) -> Result | None:
        path = self.folder / rung.name / RESULT_NAME
        return read_result(path) if path.exists() else None

    def seconds_per_token(self, rung: Rung) -> float:
        """Estimated from a few passes, without side effects."""
        trainer = self._build(rung, self.folder / rung.name, None, writes=False)
        return seconds_per_step(trainer) / trainer.tokens_per_step

    def _trainer(self, rung: Rung, folder: Path) -> Trainer:
        """A new run, or the interrupted one that is in `folder`."""
        latest = folder / LATEST_NAME
        remove_stale_temporaries(folder, "checkpoint_*.pt", "*.json")
        if not latest.exists():  # killed before its first checkpoint
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            return self._build(rung, folder, None)
        return self._build(rung, folder, latest)

    def _build(self, rung: Rung, folder: Path, latest: Path | None, *, writes: bool = True) -> Trainer:
        start = self._start(rung, latest)
        data, dataset = load_data(start, self.device, quiet=True)
        model, _ = build_model(start, self.device)
        if start.resumes:
            data.training.load_state_dict(start.content["loader"])
        trainer = Trainer(
            model,
            data,
            config=start.config.training,
            device=self.device,
            run=RunInfo(folder, describe_run(start, dataset, self.device), how_to_continue=HOW_TO_CONTINUE),
            logger=DualLogger(folder, "log", resume=start.log_position, enabled=writes),
        )
        if start.resumes:
            trainer.resume(start.content)
        return trainer

    def _start(self, rung: Rung, latest: Path | None) -> Start:
        configured = self.start.config
        training = config_at_width(
            replace(
                _rung_settings(configured.training, rung),
                val_tokens=self.val_tokens,
                warmup_steps=round(self.warmup_share * rung.steps),
            ),
            rung.multiple,
            width=rung.model.hidden_size,
            configured_width=configured.model.hidden_size,
        )
        config = replace(configured, model=rung.model, training=training)
        content = read_checkpoint(latest) if latest else {}
        return Start(config, self.start.test, rung.name, latest, content, resumes=latest is not None)

    def _fit(self, trainer: Trainer) -> float:
        """Train to the end; the loss of the last validation, or infinity if the run diverged."""
        try:
            trainer.fit()
        except PipelineError:
            if trainer.guard.skipped_in_a_row >= trainer.config.max_skipped_steps:
                return math.inf
            raise
        return trainer.last_validation["loss"]


def _rung_settings(config: TrainingConfig, rung: Rung) -> TrainingConfig:
    """The configured training with the rung's length and steps, and one validation at the end. Spikes are not skipped,
    so that a rate that is too high shows. Small models are not compiled, because that would take longer than most of
    them train."""
    return replace(
        config,
        compile="off",
        attention="any",  # the kernels of the configured model may not have such small heads
        batch_size=rung.batch_size,
        gradient_accumulation_steps=rung.accumulation,
        max_steps=rung.steps,
        validations_per_epoch=1,
        early_stopping_patience=None,
        spike_sigma=0.0,
        max_rollbacks=0,
        tracker="none",
    )


def _single_windows(data: TrainingData, device: torch.device, count: int) -> Iterator[Batch]:
    """`count` training windows, one in a batch."""
    while count > 0:
        for item in data.training:
            batch = as_batch(item, device, document_start=data.document_start)
            for row in range(min(count, len(batch["input_ids"]))):
                yield {name: values[row : row + 1] for name, values in batch.items()}
            count -= len(batch["input_ids"])
            if count <= 0:
                return


def write_result(path: Path, result: Result) -> None:
    """Infinity is not JSON, so it is written as null."""
    values = {name: value if value is None or math.isfinite(value) else None for name, value in asdict(result).items()}
    write_json(path, {**values, "noise_measured": result.noise_windows is not None})


def read_result(path: Path) -> Result:
    """The result of a finished rung.

    Raises:
        PipelineError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        loss, noise = content["loss"], content["noise_windows"]
        if noise is None and content["noise_measured"]:
            noise = math.inf
        return Result(math.inf if loss is None else float(loss), content["bits_per_byte"], noise)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{path} is damaged ({error}); delete it, and that run is trained again") from None
