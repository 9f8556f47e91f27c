"""The training loop: accumulation, faults, early stopping, batch contents."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.dataloading.batch import as_batch
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.modeling.head_loss import IGNORED, cross_entropy_sum, next_token_labels
from pipeline.training.config import TrainingConfig
from pipeline.training.out_of_memory import missing_moments
from pipeline.training.run_info import RunInfo
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData
from pipeline.training.validation import score
from utils.devices import World
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.raw_log import read_log

CPU = torch.device("cpu")
VOCAB, LENGTH = 11, 8


class Bigram(nn.Module):
    """A minimal model with the real interface that predicts the next token from the current one."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Embedding(VOCAB, VOCAB)
        self.scale = nn.Parameter(torch.ones(VOCAB))
        self.largest_batch = 1000
        self.less_beside_gradients = 0
        self.seen_segments: list[torch.Tensor] = []

    def forward(self, input_ids, labels, *, segment_ids=None, num_tokens=None, return_logits=True):
        is_second = self.scale.grad is not None
        if len(input_ids) > self.largest_batch - is_second * self.less_beside_gradients:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if segment_ids is not None:
            self.seen_segments.append(segment_ids)
        logits = self.lm_head(input_ids) * self.scale
        loss = cross_entropy_sum(logits, next_token_labels(labels)) / num_tokens
        return {"loss": loss, "logits": None}


class Loader:
    """An endless series of batches 0, 1, 2, … in epochs of `length`."""

    sequence_length = LENGTH

    def __init__(self, make, length=10):
        self.make = make
        self.length = length
        self.epoch = 0
        self.batch = 0

    def __len__(self):
        return self.length

    def __iter__(self):
        while self.batch < self.length:
            self.batch += 1
            yield self.make(self.epoch * self.length + self.batch - 1)
        self.epoch += 1
        self.batch = 0

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.batch = state["batch"]


def random_ids(number, rows=4):
    return torch.randint(3, VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(number))


def make_trainer(tmp_path, make=random_ids, *, model=None, validation=None, callbacks=(), **settings) -> Trainer:
    config = TrainingConfig(
        batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=0.05,
        min_learning_rate=0.01,
        warmup_steps=2,
        max_steps=10,
        checkpoint_every_steps=3,
        validations_per_epoch=2,
        log_every_steps=1,
    )
    torch.manual_seed(0)
    return Trainer(
        model or Bigram(),
        TrainingData(Loader(make), [random_ids(999)] if validation is None else validation, VOCAB),
        config=replace(config, **settings),
        device=CPU,
        run=RunInfo(tmp_path / "run_a"),
        logger=DualLogger(tmp_path / "logs", "run_a"),
        callbacks=callbacks,
    )


def events(tmp_path, name):
    return [line for line in read_log(tmp_path / "logs" / "raw_metrics" / "run_a.jsonl") if line.get("event") == name]


def test_the_log_tells_how_long_a_run_is_and_how_it_ended(tmp_path):
    make_trainer(tmp_path).fit()
    assert [(line["step"], line["total_steps"]) for line in events(tmp_path, "training")] == [(0, 10)]
    assert [(line["step"], line["reason"]) for line in events(tmp_path, "end")] == [(10, "finished")]


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_accumulation_weighs_tokens_not_batches(tmp_path):
    """Batches with few and many supervised tokens give the same gradient as a single combined batch."""

    def masked(number, rows=2):
        ids, labels = random_ids(number, rows), random_ids(number, rows)
        labels[:, : 1 + number % 4 * 2] = IGNORED
        return {"input_ids": ids, "labels": labels}

    def doubled(number):
        parts = [masked(2 * number), masked(2 * number + 1)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    split = make_trainer(tmp_path / "a", masked, gradient_accumulation_steps=2, max_steps=4)
    whole = make_trainer(tmp_path / "b", doubled, max_steps=4)
    split_losses = [split.train_step() for _ in range(4)]
    whole_losses = [whole.train_step() for _ in range(4)]
    assert split_losses == pytest.approx(whole_losses, abs=1e-6)
    torch.testing.assert_close(weights(split), weights(whole))


def test_gradients_are_clipped_to_the_norm(tmp_path):
    trainer = make_trainer(tmp_path, max_grad_norm=1e-3, optimizer="adamw")
    norms = []
    original = trainer.optimizers[0].step

    def watching():
        norms.append(torch.cat([p.grad.flatten() for p in trainer.parameters]).norm().item())
        original()

    trainer.optimizers[0].step = watching
    trainer.train_step()
    assert norms == [pytest.approx(1e-3, rel=1e-2)]


def test_without_a_norm_to_clip_to_gradients_stay_whole(tmp_path):
    trainer = make_trainer(tmp_path, max_grad_norm=0.0, weight_decay=0.0)
    before = weights(trainer)
    trainer.train_step()
    assert not torch.equal(weights(trainer), before)


def test_the_schedule_is_the_configured_one(tmp_path):
    trainer = make_trainer(tmp_path, schedule="wsd", decay_share=0.4, warmup_steps=2)
    rates = []
    for _ in range(10):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        trainer.train_step()
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.05, 0.05, 0.05, 0.04, 0.03, 0.02, 0.01])


def test_utilisation_is_over_all_processes_and_only_for_known_devices(tmp_path):
    trainer = make_trainer(tmp_path)
    assert trainer.mfu(1000.0) is None
    trainer.run = replace(trainer.run, flops_per_token=6e6, peak_flops=12e9)
    assert trainer.mfu(1000.0) == pytest.approx(0.5)
    trainer.world = World(rank=0, size=2)
    assert trainer.mfu(1000.0) == pytest.approx(0.25)


def test_checkpoints_exist_from_the_start_and_skip_bad_steps(tmp_path):
    trainer = make_trainer(tmp_path, max_skipped_steps=5)
    original_step, original_backward, first = trainer.train_step, trainer.backward, []

    def step():
        first.append((tmp_path / "run_a" / "checkpoint_latest.pt").exists())
        return original_step()

    def backward(batches, num_tokens):
        loss = original_backward(batches, num_tokens)
        return loss * math.nan if trainer.step == 5 else loss

    trainer.train_step, trainer.backward = step, backward
    trainer.fit()
    assert first[0], "a full disk would fail now"
    names = {path.name for path in (tmp_path / "run_a").glob("checkpoint_step_*.pt")}
    assert names == {"checkpoint_step_3.pt", "checkpoint_step_9.pt"}


def test_nan_loss_leaves_the_weights_unchanged(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=6, max_skipped_steps=5)
    poisoned = {"on": False}
    original = trainer.backward

    def backward(batches, num_tokens):
        loss = original(batches, num_tokens)
        return loss * math.nan if poisoned["on"] else loss

    trainer.backward = backward
    trainer.train_step()
    before = weights(trainer)
    poisoned["on"] = True
    trainer.train_step()
    assert torch.equal(weights(trainer), before)
    assert trainer.step == 2, "the step counts, so that schedule and data continue"
    poisoned["on"] = False
    trainer.train_step()
    assert not torch.equal(weights(trainer), before)
    trainer.logger.flush()
    assert [event["reason"] for event in events(tmp_path, "skipped_step")] == ["the loss is nan"]


def bad_from(number_of_first, count):
    """Ids with an unusually high loss: rare tokens in an unseen order."""

    def make(number):
        if number_of_first <= number < number_of_first + count:
            return torch.tensor([[0, 1, 2, 0, 2, 1, 0, 2]] * 4)
        return torch.arange(number, number + LENGTH).remainder(8).add(3).repeat(4, 1)

    return make


def test_repeated_spikes_roll_back_and_skip_their_data(tmp_path):
    trainer = make_trainer(
        tmp_path,
        bad_from(50, 4),
        max_steps=70,
        learning_rate=0.3,
        checkpoint_every_steps=20,
        max_skipped_steps=4,
        spike_sigma=2.0,
    )
    consumed, make = [], trainer.data.training.make
    trainer.data.training.make = lambda number: (consumed.append(number), make(number))[1]
    trainer.fit()
    skipped, rollbacks = events(tmp_path, "skipped_step"), events(tmp_path, "rollback")
    assert [event["step"] for event in skipped] == [51, 52, 53, 54]
    assert "above" in skipped[0]["reason"]
    assert [(event["from_step"], event["step"]) for event in rollbacks] == [(54, 40)]
    assert trainer.step == 70
    assert consumed == list(range(84)), "nothing is read twice; the rollback skips the data of 14 steps"
    steps = [line["step"] for line in read_log(trainer.logger.path) if "train_loss" in line]
    assert steps == list(range(1, 71)), "the numbers of each step appear once"


def test_rollbacks_are_bounded(tmp_path):
    trainer = make_trainer(
        tmp_path,
        bad_from(40, 1000),
        max_steps=70,
        learning_rate=0.3,
        max_skipped_steps=2,
        max_rollbacks=2,
        spike_sigma=2.0,
    )
    with pytest.raises(PipelineError, match=r"after 2 rollbacks; lower training.learning_rate"):
        trainer.fit()
    assert len(events(tmp_path, "rollback")) == 2
    assert read_checkpoint(tmp_path / "run_a" / "checkpoint_latest.pt")["guard"]["rollbacks"] == 2


def test_out_of_memory_names_the_batch_size_that_fits(tmp_path):
    model = Bigram()
    model.largest_batch = 3
    trainer = make_trainer(tmp_path, model=model)
    wanted = r"batch_size 4; 2 fits .*--set training.batch_size=2 --set training.gradient_accumulation_steps=2"
    with pytest.raises(PipelineError, match=wanted):
        trainer.fit()
    model.less_beside_gradients = 2
    with pytest.raises(PipelineError, match=r"1 fits .*batch_size=1 .*accumulation_steps=4"):
        make_trainer(tmp_path, model=model).fit()
    model.largest_batch = 0
    with pytest.raises(PipelineError, match="not even a single window fits"):
        make_trainer(tmp_path, model=model).fit()


def test_batch_trial_reserves_memory_for_optimizers(tmp_path):
    trainer = make_trainer(tmp_path)
    expected = sum(moments.numel() for moments in missing_moments(trainer.optimizers))
    trainer.fit()
    held = [value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()]
    assert expected == sum(value.numel() for value in held if value.dim())
    assert missing_moments(trainer.optimizers) == []


def test_the_batch_that_is_measured_is_like_those_of_training(tmp_path):
    trainer = make_trainer(tmp_path)
    assert set(trainer.synthetic_batch(2)) == {"input_ids", "labels"}
    trainer.data = replace(trainer.data, document_start=1)
    assert set(trainer.synthetic_batch(2)) == {"input_ids", "labels", "segment_ids"}


def test_training_stops_early_after_validations_without_a_new_best(tmp_path):
    worse = make_trainer(
        tmp_path, max_steps=1000, early_stopping_patience=3, validation=[torch.zeros(2, LENGTH).long()]
    )
    worse.fit()
    assert worse.step < 100
    assert worse.metrics.validations_without_best == 3
    best = read_checkpoint(tmp_path / "run_a" / "checkpoint_best.pt")
    assert best["step"] == worse.metrics.best_step < worse.step
    resumed = make_trainer(tmp_path, max_steps=1000, early_stopping_patience=3)
    resumed.resume(read_checkpoint(tmp_path / "run_a" / "checkpoint_latest.pt"))
    assert resumed.finished


def test_callbacks_see_every_validation(tmp_path):
    seen = []
    watcher = SimpleNamespace(
        on_validation=lambda validation: seen.append((validation.step, validation.metrics["loss"]))
    )
    trainer = make_trainer(tmp_path, callbacks=[watcher])
    trainer.fit()
    assert [step for step, _ in seen] == [5, 10]
    assert seen[-1][1] == trainer.last_validation["loss"]


def test_validation_weighs_tokens_and_gives_bits_per_byte():
    model = Bigram()
    long, short = random_ids(1), {"input_ids": random_ids(2), "labels": random_ids(2)}
    short["labels"][:, :6] = IGNORED
    token_bytes = torch.arange(VOCAB)
    found = score(model, [long, short], CPU, token_bytes=token_bytes)
    sums, tokens, num_bytes = 0.0, 0, 0
    for ids, labels in ((long, long), (short["input_ids"], short["labels"])):
        for row, targets in zip(ids, labels, strict=True):
            for current, target in zip(row[:-1], targets[1:], strict=True):
                if target != IGNORED:
                    log_probabilities = (model.lm_head.weight[current] * model.scale).log_softmax(-1)
                    sums -= log_probabilities[target].item()
                    tokens, num_bytes = tokens + 1, num_bytes + int(target)
    assert found["loss"] == pytest.approx(sums / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(sums / tokens), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(sums / math.log(2) / num_bytes, rel=1e-5)
    assert score(model, [long], CPU, stopped=lambda: True) is None


def test_segments_rise_at_each_document_and_given_ones_stay():
    ids = torch.tensor([[5, 6, 1, 7, 8, 1, 9, 9]])
    batch = as_batch(ids, CPU, document_start=1)
    assert batch["segment_ids"].tolist() == [[0, 0, 1, 1, 1, 2, 2, 2]]
    own = torch.zeros_like(ids)
    assert torch.equal(as_batch({"input_ids": ids, "segment_ids": own}, CPU, document_start=1)["segment_ids"], own)
    assert "segment_ids" not in as_batch(ids, CPU)


def test_epoch_checkpoints_are_kept(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=None, num_epochs=2)
    trainer.run = replace(trainer.run, epoch_checkpoints=True)
    trainer.fit()
    names = {path.name for path in (tmp_path / "run_a").glob("*.pt")}
    assert {"checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt", "checkpoint_best.pt", "checkpoint_latest.pt"} <= names
    assert read_checkpoint(tmp_path / "run_a" / "checkpoint_epoch_1.pt")["step"] == 10


def test_second_signal_stops_immediately_without_damage(tmp_path, monkeypatch):
    import os
    import signal

    trainer = make_trainer(tmp_path, max_steps=20)
    original = trainer.train_step

    def step():
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original()

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.step == 7, "the step did not happen"
    assert read_checkpoint(tmp_path / "run_a" / "checkpoint_latest.pt")["step"] == 6
