"""The training loop, for pretraining and fine-tuning alike.

    trainer = Trainer(model, train_loader, val_loader, config=config.training, device=device, folder=run, …)
    trainer.resume(content)     # optional: a checkpoint's content
    trainer.fit()

A loader is iterable over the rest of its epoch, has a length (batches an epoch), ``sequence_length``, ``epoch``,
``state_dict``, ``load_state_dict`` and ``skip_batches``. A batch is a tensor of ids (B, T), or a dict with
``input_ids`` and, where needed, ``labels`` (-100: not learned) and ``segment_ids``.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.dataloading.batch import Batch, as_batch, num_supervised
from pipeline.formats.checkpoint import load_optimizer, read_checkpoint, restore_rng_state, rng_state, write_checkpoint
from pipeline.formats.run_folders import prune_step_checkpoints
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import all_max, all_sum, barrier, data_parallel, from_main, gather
from pipeline.training.gradients import accumulate_gradients, synthetic_batch
from pipeline.training.loss_guard import LossGuard
from pipeline.training.optimizers import make_optimizers
from pipeline.training.out_of_memory import BatchTrial, explain_out_of_memory, is_out_of_memory
from pipeline.training.profiler import step_profile
from pipeline.training.progress_bar import TrainingProgress
from pipeline.training.stop_signals import StopSignals, raise_for
from pipeline.training.validation import score
from utils.devices import current_world
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.metrics import MetricsTracker
from utils.scheduler import LearningRateScheduler, Schedule


class Callback(Protocol):
    """Something that happens beside training, in the main process only."""

    def on_validation(self, trainer: "Trainer", metrics: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class RunInfo:
    """What a checkpoint says about its run beside the state: whole config, tokenizer, data, versions, name."""

    folder: Path
    description: Mapping[str, Any] = field(default_factory=dict)
    epoch_checkpoints: bool = False  # checkpoint_epoch_N.pt beside the others, as fine-tuning keeps them
    flops_per_token: float | None = None  # forward and backward
    peak_flops: float | None = None  # of one device, a second


class Trainer:
    """Steps, validations and checkpoints until the configured end, exactly continued from a checkpoint.

    Args:
        token_bytes: bytes of each token id, for bits per byte; None leaves them out.
        document_start: token id that begins a document; given, documents of a window do not attend to each other.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        *,
        config: TrainingConfig,
        device: torch.device,
        run: RunInfo,
        logger: DualLogger,
        token_bytes: Tensor | None = None,
        document_start: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.config, self.device, self.run, self.logger = config, device, run, logger
        self.token_bytes = None if token_bytes is None else token_bytes.to(device)
        self.document_start, self.callbacks, self.world = document_start, callbacks, current_world()
        self.forward = data_parallel(model, device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizers = make_optimizers(model, config, device)
        self.scheduler = LearningRateScheduler(self.optimizers, Schedule.from_config(config, self.total_steps))
        self.metrics = MetricsTracker(
            window=config.metrics_window, patience=config.early_stopping_patience, device=device
        )
        self.guard = LossGuard(config.spike_sigma)
        self.step = self.tokens_seen = 0
        self.validated_step = 0  # validation belongs to a step; one that was interrupted is made up for on resume
        self.last_validation: dict[str, float] = {}
        self.stop = StopSignals()
        self.progress = TrainingProgress(self.total_steps, enabled=False)
        self._batches = self._endless()

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.train_loader) // self.config.gradient_accumulation_steps)

    @property
    def total_steps(self) -> int:
        return self.config.max_steps or self.config.num_epochs * self.steps_per_epoch

    @property
    def validation_interval(self) -> int:
        return max(1, round(self.steps_per_epoch / self.config.validations_per_epoch))

    @property
    def tokens_per_step(self) -> int:
        rows, length = self.batch_shape
        return rows * length * self.config.gradient_accumulation_steps * self.world.size

    @property
    def batch_shape(self) -> tuple[int, int]:
        """Rows and tokens a row of one forward pass."""
        return self.config.batch_size, self.train_loader.sequence_length

    @property
    def stopped_early(self) -> str:
        """Why training ended before its last step; an empty string if it did not."""
        if self.step >= self.total_steps or not self.metrics.should_stop:
            return ""
        return (
            f"stopped early: {self.metrics.validations_without_best} validations in a row without a new best "
            f"(early_stopping_patience); the best was at step {self.metrics.best_step}"
        )

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps or self.metrics.should_stop

    def fit(self, *, validate_first: bool = False, trace: Path | None = None) -> dict[str, float]:
        """Trains to the end and returns the best validation's metrics.

        Args:
            validate_first: score the model before the first step too, as fine-tuning does.
            trace: where a trace of some early steps is written.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and saved.
        """
        self.progress = TrainingProgress(self.total_steps, first_step=self.step, enabled=self.world.is_main)
        self._match_best()
        try:
            with self.stop, step_profile(trace, self.progress.say) as on_step:
                self._run(validate_first=validate_first, on_step=on_step)
        finally:
            self.progress.close()
            self.logger.flush()
        return self.metrics.best

    def _run(self, *, validate_first: bool, on_step: Callable[[], None]) -> None:
        if self.step == 0:
            self.save("latest")  # shows before hours of work that the disk takes it, and is what a fault goes back to
            if validate_first and not self.last_validation:
                self.validate()
        self.metrics.start_clock()
        while True:
            if self._validation_due():
                self.validate()
            if signal_number := all_max(self.stop.received, self.device):
                self.save("latest")
                self.progress.say(f"saved step {self.step}; go on with: --resume {self.run.folder}")
                raise_for(signal_number)
            if self.finished:
                if self.stopped_early:
                    self.progress.say(f"step {self.step}: {self.stopped_early}")
                break
            self._step_or_explain()
            on_step()
            self._checkpoint_if_due()
        self.save("latest")

    # ---- one step

    def _step_or_explain(self) -> None:
        try:
            self.train_step()
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the exception's traceback would keep the failed step's tensors alive.
        self._batches = iter(())  # and the loader's place holds no batch either
        trial = BatchTrial(self.model, self.optimizers, self.synthetic_batch, self.device)
        raise explain_out_of_memory(self.config, self.world, trial)

    def train_step(self) -> float:
        """One optimizer step over the accumulated batches; returns the mean loss of its supervised tokens."""
        batches = [self._next_batch() for _ in range(self.config.gradient_accumulation_steps)]
        supervised = all_sum(torch.stack([num_supervised(batch) for batch in batches]).sum())
        # The processes' gradients are averaged, so each divides by its share of the step's tokens.
        loss = self.backward(batches, supervised.clamp(min=1).float() / self.world.size)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)
        loss_value, norm_value = torch.stack([all_sum(loss) / self.world.size, norm.float()]).tolist()
        problem = self.guard.problem(loss_value, norm_value)
        if not problem:
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        tokens = sum(batch["input_ids"].numel() for batch in batches) * self.world.size
        self.tokens_seen += tokens
        if problem:
            self._skipped(problem)
        else:
            self._log_step(tokens, loss_value, norm_value)
        self.scheduler.set_step(self.step)
        return loss_value

    def backward(self, batches: Sequence[Batch], num_tokens: Tensor) -> Tensor:
        """Gradients of the summed loss divided by `num_tokens`, the supervised tokens of the whole step."""
        return accumulate_gradients(self.forward, batches, num_tokens)

    def synthetic_batch(self, rows: int) -> Batch:
        """Random ids in the shape of the loader's batches, but for the number of rows."""
        return synthetic_batch(
            rows,
            self.train_loader.sequence_length,
            vocab_size=self.model.config.vocab_size,
            device=self.device,
            document_start=self.document_start,
        )

    def _next_batch(self) -> Batch:
        return as_batch(next(self._batches), self.device, document_start=self.document_start)

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.train_loader

    def _log_step(self, tokens: int, loss: float, norm: float) -> None:
        self.metrics.update(tokens, loss=loss)
        speed = self.metrics.tokens_per_second
        left = (self.total_steps - self.step) * tokens / speed if speed else 0.0
        mfu = self.mfu(speed)
        smooth = self.metrics.smoothed("loss")
        self.progress.show(step=self.step, loss=smooth, tokens_per_second=speed, seconds_left=left, mfu=mfu)
        if self.step % self.config.log_every_steps == 0 or self.step == 1 or self.step == self.total_steps:
            extra = {"mfu": mfu} if mfu is not None else {}
            self.logger.log(
                step=self.step,
                train_loss=loss,
                train_loss_smoothed=smooth,
                train_grad_norm=norm,
                train_learning_rate=self.optimizers[0].param_groups[0]["lr"],
                train_tokens=self.tokens_seen,
                speed_tokens_per_second=speed,
                speed_memory_bytes=self.metrics.memory_bytes,
                **extra,
            )

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation over all processes, where the device's peak is known."""
        if not (self.run.flops_per_token and self.run.peak_flops):
            return None
        return tokens_per_second * self.run.flops_per_token / (self.run.peak_flops * self.world.size)

    # ---- faults

    def _skipped(self, problem: str) -> None:
        self.logger.event("skipped_step", step=self.step, reason=problem)
        self.progress.say(f"step {self.step} skipped: {problem}")
        if self.guard.skipped_in_a_row >= self.config.max_skipped_steps:
            self._roll_back(problem)

    def _roll_back(self, problem: str) -> None:
        """Back to the last checkpoint's weights, and on with the data after that which went wrong."""
        if self.guard.rollbacks >= self.config.max_rollbacks:
            raise PipelineError(
                f"step {self.step}: {problem}, after {self.guard.rollbacks} returns to a checkpoint; lower "
                "training.learning_rate or look at the data; the events are in the log"
            )
        rollbacks, failed_step, place = self.guard.rollbacks + 1, self.step, self.train_loader.state_dict()
        barrier()  # the main process may still be writing
        self.resume(read_checkpoint(self.run.folder / "checkpoint_latest.pt"))
        self.train_loader.load_state_dict(place)
        self.guard.rollbacks, self.guard.skipped_in_a_row = rollbacks, 0
        self.logger.drop_after(self.step)
        self.logger.event("rollback", step=self.step, from_step=failed_step, reason=problem)
        self.progress.say(f"back from step {failed_step} to step {self.step}; the data between is left out")
        self.save("latest")

    # ---- validation

    def _validation_due(self) -> bool:
        due = self.step % self.validation_interval == 0 or self.finished
        return due and self.step != self.validated_step and self.step > 0

    def validate(self) -> dict[str, float] | None:
        """Scores the validation windows, logs, keeps the best; None where a signal stopped it before the end."""
        metrics = self.score_validation()
        if metrics is None:
            return None
        self.validated_step, self.last_validation = self.step, metrics
        named = {f"val_{name}": value for name, value in metrics.items()}
        self.logger.log(step=self.step, train_tokens=self.tokens_seen, **named)
        is_best = self.metrics.record_validation(self.step, **metrics)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
        self.progress.say(f"step {self.step}: validation {shown}{' (best)' if is_best else ''}")
        failure = self._call_back(metrics)
        if is_best:
            self.save("best")
        if failure is not None:
            raise failure
        self.metrics.start_clock()
        return metrics

    def _call_back(self, metrics: Mapping[str, float]) -> Exception | None:
        """What is shown of a validation, before it is saved, so that a saved validation was shown; an error waits."""
        if self.world.is_main:
            try:
                for callback in self.callbacks:
                    callback.on_validation(self, metrics)
            except Exception as error:
                return error
        return None

    def score_validation(self, num_batches: int | None = None) -> dict[str, float] | None:
        """The metrics of all or the first so many validation batches; changes nothing."""
        self.model.eval()
        return score(
            self.model,
            islice(self.val_loader, num_batches),
            self.device,
            token_bytes=self.token_bytes,
            document_start=self.document_start,
            stopped=lambda: self.world.size == 1 and bool(self.stop.received),
        )

    # ---- checkpoints

    def _checkpoint_if_due(self) -> None:
        if self.run.epoch_checkpoints and self.step % self.steps_per_epoch == 0:
            self.save(f"epoch_{self.step // self.steps_per_epoch}")
        # While steps are skipped, the checkpoint before them stays the one to go back to.
        due = self.step % self.config.checkpoint_every_steps == 0 and not self.guard.skipped_in_a_row
        if due and not self.finished:
            self.save(f"step_{self.step}")

    def save(self, kind: str) -> None:
        """Writes checkpoint_latest.pt; another `kind` is a second name of the same file.

        The log is written first: what it then holds past the checkpoint is dropped on resume, and what its disk does
        not take goes into the checkpoint.
        """
        generators = gather(rng_state(self.device))
        loaders = gather(self.train_loader.state_dict())
        if not self.world.is_main:
            return
        self.logger.flush()
        write_checkpoint(
            self.run.folder / "checkpoint_latest.pt",
            {
                **self.state_dict(),
                "rng": generators,
                "loader": loaders[0],
                "unwritten_log": list(self.logger.unwritten),
            },
            other_names=() if kind == "latest" else (f"checkpoint_{kind}.pt",),
        )
        prune_step_checkpoints(self.run.folder, keep_last=self.config.keep_last, step=self.step)
        self.metrics.start_clock()

    def _match_best(self) -> None:
        """checkpoint_best.pt and what a resumed run takes for its best become one again.

        They differ if the run goes on from before its newest best (an earlier checkpoint, a process killed while it
        saved), or if the file was removed or damaged.
        """
        recorded = self.metrics.best_step
        if recorded is None or recorded == from_main(self._step_of_best_file() if self.world.is_main else None):
            return
        if recorded == self.step == self.validated_step:
            self.save("best")
            return
        self.metrics.best_is_lost = True
        self.progress.say(f"checkpoint_best.pt is not that of step {recorded}; the next validation replaces it")

    def _step_of_best_file(self) -> int | None:
        try:
            return read_checkpoint(self.run.folder / "checkpoint_best.pt").get("step")
        except PipelineError:
            return None

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.run.description,
            "model": self.model.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in self.optimizers],
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "epoch": self.train_loader.epoch,
            "tokens_seen": self.tokens_seen,
            "validated_step": self.validated_step,
            "last_validation": self.last_validation,
            "best": self.metrics.best,
            "metrics": self.metrics.state_dict(),
            "guard": self.guard.state_dict(),
            "world_size": self.world.size,
        }

    def resume(self, content: Mapping[str, Any]) -> None:
        """Goes on exactly where the checkpoint with this content stood."""
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizer"], strict=True):
            load_optimizer(optimizer, state)
        self.step, self.tokens_seen = content["step"], content["tokens_seen"]
        self.validated_step, self.last_validation = content["validated_step"], dict(content["last_validation"])
        self.scheduler.set_step(self.step)
        self.metrics.load_state_dict(content["metrics"])
        self.guard.load_state_dict(content["guard"])
        self.train_loader.load_state_dict(content["loader"])
        self._batches = self._endless()
        if content["world_size"] == self.world.size:
            restore_rng_state(content["rng"][self.world.rank], self.device)
