"""The training loop for pretraining and fine-tuning.

trainer = Trainer(model, data, config=config.training, device=device, run=RunInfo(folder), logger=logger)
trainer.resume(content)     # optional: a checkpoint's content
trainer.fit()
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.dataloading.batch import Batch, as_batch, num_supervised
from pipeline.formats import logged_metrics as logged
from pipeline.formats.checkpoint import load_optimizer, read_checkpoint, restore_rng_state, rng_state
from pipeline.training.callbacks import Callback, Validation
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import all_max, all_sum, barrier, data_parallel, from_main, gather
from pipeline.training.gradients import accumulate_gradients, synthetic_batch
from pipeline.training.loss_guard import LossGuard
from pipeline.training.optimizers import make_optimizers
from pipeline.training.out_of_memory import BatchTrial, explain_out_of_memory, is_out_of_memory
from pipeline.training.profiler import step_profile
from pipeline.training.progress_bar import TrainingProgress
from pipeline.training.run_checkpoints import RunCheckpoints
from pipeline.training.run_info import RunInfo
from pipeline.training.stop_signals import StopSignals, raise_for
from pipeline.training.training_data import LoaderItem, TrainingData
from pipeline.training.validation import score
from utils.devices import current_world
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.metrics import MetricsTracker
from utils.scheduler import LearningRateScheduler, Schedule


class Trainer:
    """Runs steps, validations and checkpoints to the configured end; can resume exactly from a checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        *,
        config: TrainingConfig,
        device: torch.device,
        run: RunInfo,
        logger: DualLogger,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.device = device
        self.run = run
        self.logger = logger
        self.callbacks = callbacks
        self.world = current_world()
        self.forward = data_parallel(model, device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizers = make_optimizers(model, config, device)
        self.scheduler = LearningRateScheduler(self.optimizers, Schedule.from_config(config, self.total_steps))
        self.metrics = MetricsTracker(
            window=config.metrics_window, patience=config.early_stopping_patience, device=device
        )
        self.guard = LossGuard(config.spike_sigma)
        self.checkpoints = RunCheckpoints(run.folder, config.keep_last)
        self.step = 0
        self.tokens_seen = 0
        self.validated_step = 0  # the last validated step; a resumed run catches up on an interrupted validation
        self.last_validation: dict[str, float] = {}
        self.stop = StopSignals()
        self.progress = TrainingProgress(self.total_steps, enabled=False)
        self._batches = self._endless()

    # ---- duration

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.data.training) // self.config.gradient_accumulation_steps)

    @property
    def total_steps(self) -> int:
        return self.config.max_steps or self.config.num_epochs * self.steps_per_epoch

    @property
    def validation_interval(self) -> int:
        return max(1, round(self.steps_per_epoch / self.config.validations_per_epoch))

    @property
    def tokens_per_step(self) -> int:
        windows = self.config.batch_size * self.config.gradient_accumulation_steps * self.world.size
        return windows * self.data.training.sequence_length

    @property
    def stopped_early(self) -> str:
        """Why training ended early, or an empty string."""
        return "" if self.step >= self.total_steps else self.metrics.stop_reason

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps or self.metrics.should_stop

    # ---- the loop

    def fit(self, *, validate_first: bool = False, trace: Path | None = None) -> dict[str, float]:
        """Train to the end and return the metrics of the best validation.

        Args:
            validate_first: also score the model before the first step, as in fine-tuning.
            trace: write a trace of some early steps to this file.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after finishing and saving the step.
        """
        self.progress = TrainingProgress(self.total_steps, first_step=self.step, enabled=self.world.is_main)
        self._match_best()
        self.logger.event(logged.TRAINING, step=self.step, total_steps=self.total_steps, device=str(self.device))
        try:
            with self.stop, step_profile(trace, self.progress.say) as on_step:
                self._run(validate_first=validate_first, on_step=on_step)
        finally:
            self.progress.close()
            self.logger.flush()
        return self.metrics.best

    def _run(self, *, validate_first: bool, on_step: Callable[[], None]) -> None:
        if self.step == 0:
            self.save()  # fails now instead of after hours if the disk is full; also a rollback point
            if validate_first and not self.last_validation:
                self.validate()
        self.metrics.start_clock()
        while True:
            if self._validation_due():
                self.validate()
            if signal_number := all_max(self.stop.received, self.device):
                self.save()
                self.logger.event(logged.END, step=self.step, reason=logged.INTERRUPTED)
                how_to_continue = self.run.how_to_continue or f"--resume {self.run.folder}"
                self.progress.say(f"saved step {self.step}; continue with: {how_to_continue}")
                raise_for(signal_number)
            if self.finished:
                break
            self.step_or_explain()
            on_step()
            self._checkpoint_if_due()
        if self.stopped_early:
            self.progress.say(f"step {self.step}: {self.stopped_early}")
        self.save()
        self.logger.event(logged.END, step=self.step, reason=self.stopped_early or logged.FINISHED)

    # ---- one step

    def step_or_explain(self) -> None:
        """One optimizer step.

        Raises:
            PipelineError: out of memory; names a batch size that fits.
        """
        try:
            self.train_step()
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, because the traceback would keep the failed step's tensors alive.
        self._batches = iter(())  # the loader's iterator holds a batch too
        trial = BatchTrial(self.model, self.optimizers, self.synthetic_batch, self.device)
        raise explain_out_of_memory(self.config, self.world, trial)

    def train_step(self) -> float:
        """Run one optimizer step over the accumulated batches; returns the mean loss of the supervised tokens."""
        batches = [self._next_batch() for _ in range(self.config.gradient_accumulation_steps)]
        supervised = all_sum(torch.stack([num_supervised(batch) for batch in batches]).sum())
        # Gradients are averaged over processes, so each divides by its share of the step's tokens.
        loss = self.backward(batches, supervised.clamp(min=1).float() / self.world.size)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)
        loss_value: float
        loss_value, norm_value = torch.stack([all_sum(loss) / self.world.size, norm.float()]).tolist()
        problem = self.guard.problem(loss_value, norm_value)
        if not problem:
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        num_tokens = sum(batch["input_ids"].numel() for batch in batches) * self.world.size
        self.tokens_seen += num_tokens
        if problem:
            self._skipped(problem)
        else:
            self._log_step(num_tokens, loss_value, norm_value)
        self.scheduler.set_step(self.step)
        return loss_value

    def backward(self, batches: Sequence[Batch], num_tokens: Tensor) -> Tensor:
        """Accumulate the gradients of the summed loss divided by `num_tokens`, the supervised tokens in the whole
        step."""
        return accumulate_gradients(self.forward, batches, num_tokens)

    def synthetic_batch(self, rows: int) -> Batch:
        """Random ids like the loader's batches, with any number of rows."""
        return synthetic_batch(
            rows,
            self.data.training.sequence_length,
            vocab_size=self.data.vocab_size,
            device=self.device,
            document_start=self.data.document_start,
        )

    def _next_batch(self) -> Batch:
        return as_batch(next(self._batches), self.device, document_start=self.data.document_start)

    def _endless(self) -> Iterator[LoaderItem]:
        while True:
            yield from self.data.training

    def _log_step(self, num_tokens: int, loss: float, norm: float) -> None:
        self.metrics.update(num_tokens, loss=loss)
        speed = self.metrics.tokens_per_second
        seconds_left = (self.total_steps - self.step) * num_tokens / speed if speed else 0.0
        mfu = self.mfu(speed)
        smoothed = self.metrics.smoothed("loss")
        self.progress.show(step=self.step, loss=smoothed, tokens_per_second=speed, seconds_left=seconds_left, mfu=mfu)
        if self.step % self.config.log_every_steps and self.step not in (1, self.total_steps):
            return
        values = {
            logged.TRAIN_LOSS: loss,
            logged.TRAIN_LOSS_SMOOTHED: smoothed,
            logged.TRAIN_GRAD_NORM: norm,
            logged.TRAIN_LEARNING_RATE: self.optimizers[0].param_groups[0]["lr"],
            logged.TRAIN_TOKENS: self.tokens_seen,
            logged.SPEED_TOKENS_PER_SECOND: speed,
            logged.SPEED_MEMORY_BYTES: self.metrics.memory_bytes,
        }
        if mfu is not None:
            values[logged.MFU] = mfu
        self.logger.log(step=self.step, **values)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilization over all processes; None if the device's peak is unknown."""
        return self.run.mfu(tokens_per_second, self.world.size)

    # ---- faults

    def _skipped(self, problem: str) -> None:
        self.logger.event(logged.SKIPPED_STEP, step=self.step, reason=problem)
        self.progress.say(f"step {self.step} skipped: {problem}")
        if self.guard.skipped_in_a_row >= self.config.max_skipped_steps:
            self._roll_back(problem)

    def _roll_back(self, problem: str) -> None:
        """Return to the weights of the last checkpoint, and continue with the data after the failed steps."""
        if self.guard.rollbacks >= self.config.max_rollbacks:
            raise PipelineError(
                f"step {self.step}: {problem}, after {self.guard.rollbacks} rollbacks; lower training.learning_rate "
                "or check the data; see the log for details"
            )
        rollbacks = self.guard.rollbacks + 1
        failed_step = self.step
        place = self.data.training.state_dict()
        barrier()  # the main process may still be writing
        self.resume(read_checkpoint(self.checkpoints.latest))
        self.data.training.load_state_dict(place)
        self.guard.rollbacks = rollbacks
        self.guard.skipped_in_a_row = 0
        self.logger.drop_after(self.step)
        self.logger.event(logged.ROLLBACK, step=self.step, from_step=failed_step, reason=problem)
        self.progress.say(f"rolled back from step {failed_step} to step {self.step}; the data in between is skipped")
        self.save()

    # ---- validation

    def _validation_due(self) -> bool:
        due = self.step % self.validation_interval == 0 or self.finished
        return due and self.step != self.validated_step and self.step > 0

    def validate(self) -> dict[str, float] | None:
        """Score the validation windows, log, and keep the best; returns None if stopped by a signal."""
        metrics = self.score_validation()
        if metrics is None:
            return None
        self.validated_step = self.step
        self.last_validation = metrics
        self.logger.log(step=self.step, **{logged.TRAIN_TOKENS: self.tokens_seen}, **logged.validation_values(metrics))
        is_best = self.metrics.record_validation(self.step, **metrics)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
        self.progress.say(f"step {self.step}: validation {shown}{' (best)' if is_best else ''}")
        # Run the callbacks before saving, so that a saved validation was shown; raise their errors after saving.
        failure = self._call_back(metrics) if self.world.is_main else None
        if is_best:
            self.save("best")
        self.logger.flush()  # whoever follows the run sees each validation immediately
        if failure is not None:
            raise failure
        self.metrics.start_clock()
        return metrics

    def _call_back(self, metrics: Mapping[str, float]) -> Exception | None:
        validation = Validation(self.step, metrics, self.model, self.device, self.logger, self.progress.say)
        try:
            for callback in self.callbacks:
                callback.on_validation(validation)
        except Exception as error:
            return error
        return None

    def score_validation(self, num_batches: int | None = None) -> dict[str, float] | None:
        """The metrics of all validation batches, or of the first `num_batches`; has no side effects."""
        self.model.eval()
        return score(
            self.model,
            islice(self.data.validation, num_batches),
            self.device,
            token_bytes=self.data.token_bytes,
            document_start=self.data.document_start,
            stopped=lambda: self.world.size == 1 and bool(self.stop.received),
        )

    # ---- checkpoints

    def _checkpoint_if_due(self) -> None:
        kinds = []
        if self.run.epoch_checkpoints and self.step % self.steps_per_epoch == 0:
            kinds.append(f"epoch_{self.step // self.steps_per_epoch}")
        # While steps are being skipped, keep the checkpoint before them as the rollback point.
        due = self.step % self.config.checkpoint_every_steps == 0 and not self.guard.skipped_in_a_row
        if due and not self.finished:
            kinds.append(f"step_{self.step}")
        if kinds:
            self.save(*kinds)  # together, because a run killed in between would resume past the second

    def save(self, *kinds: str) -> None:
        """Write checkpoint_latest.pt; `kinds` are additional names for the same file.

        The log is written first, because lines past the checkpoint are dropped on resume. Lines that cannot be written
        go into the checkpoint.
        """
        generators = gather(rng_state(self.device))
        loaders = gather(self.data.training.state_dict())
        if not self.world.is_main:
            return
        self.logger.flush()
        unwritten = list(self.logger.unwritten)
        content = {**self.state_dict(), "rng": generators, "loader": loaders[0], "unwritten_log": unwritten}
        self.checkpoints.write(kinds, content)
        self.metrics.start_clock()

    def _match_best(self) -> None:
        """Reconcile checkpoint_best.pt with the best validation of a resumed run.

        They differ if the run resumes from before its latest best (an earlier checkpoint, or a process killed while
        saving), or if the file was deleted or damaged.
        """
        recorded = self.metrics.best_step
        if recorded is None or recorded == from_main(self.checkpoints.step_of_best() if self.world.is_main else None):
            return
        if recorded == self.step == self.validated_step:
            self.save("best")
            return
        self.metrics.best_is_lost = True
        self.progress.say(f"checkpoint_best.pt is not from step {recorded}; the next validation will replace it")

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.run.description,
            "model": self.model.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in self.optimizers],
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "epoch": self.data.training.epoch,
            "tokens_seen": self.tokens_seen,
            "validated_step": self.validated_step,
            "last_validation": self.last_validation,
            "best": self.metrics.best,
            "metrics": self.metrics.state_dict(),
            "guard": self.guard.state_dict(),
            "world_size": self.world.size,
        }

    def resume(self, content: Mapping[str, Any]) -> None:
        """Continue exactly from the checkpoint with this `content`."""
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizer"], strict=True):
            load_optimizer(optimizer, state)
        self.step = content["step"]
        self.tokens_seen = content["tokens_seen"]
        self.validated_step = content["validated_step"]
        self.last_validation = dict(content["last_validation"])
        self.scheduler.set_step(self.step)
        self.metrics.load_state_dict(content["metrics"])
        self.guard.load_state_dict(content["guard"])
        self.data.training.load_state_dict(content["loader"])
        self._batches = self._endless()
        if content["world_size"] == self.world.size:
            restore_rng_state(content["rng"][self.world.rank], self.device)
