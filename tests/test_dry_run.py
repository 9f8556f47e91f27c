"""The estimate of a run, with a fake clock."""

import pytest

from pipeline.training.dry_run import dry_run, seconds_per_step
from tests.test_trainer import make_trainer


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def timed(trainer, name, clock, seconds):
    """Make each call of a method take `seconds`, and the first one a second longer for compiling."""
    original, calls = getattr(trainer, name), []

    def work(*arguments):
        clock.now += seconds if calls else seconds + 1
        calls.append(name)
        return original(*arguments)

    setattr(trainer, name, work)


def test_compiling_is_counted_once(tmp_path, clock):
    trainer = make_trainer(tmp_path)
    timed(trainer, "train_step", clock, 0.01)
    timed(trainer, "score_validation", clock, 0.004)
    report = dry_run(trainer, clock=clock)
    assert "step: 10 ms" in report
    assert "validation: 4 ms, 2 times" in report
    assert "10 steps, 320 tokens, about 2.1s" in report


def test_expected_time_leaves_the_first_pass_out(tmp_path, clock):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2)
    timed(trainer, "backward", clock, 0.01)
    assert seconds_per_step(trainer, clock=clock) == pytest.approx(0.02)
