"""The learning rate at each step, compared with the formulas."""

import math
from itertools import pairwise

import pytest
import torch

from pipeline.training.config import TrainingConfig
from utils.scheduler import LearningRateScheduler, Schedule


def test_cosine_rises_falls_and_ends_at_the_minimum():
    schedule = Schedule("cosine", total_steps=110, warmup_steps=10, minimum=0.1)
    shares = [schedule.multiplier(step) for step in range(110)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(0.1)
    assert shares[43] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 33 / 99)))
    assert all(left >= right for left, right in pairwise(shares[10:]))
    assert schedule.multiplier(10**6) == pytest.approx(0.1)


def test_wsd_stays_up_and_falls_linearly_at_the_end():
    schedule = Schedule("wsd", total_steps=100, warmup_steps=5, minimum=0.0, decay_share=0.2)
    shares = [schedule.multiplier(step) for step in range(100)]
    assert shares[5:80] == [1.0] * 75
    assert shares[80:] == pytest.approx([(19 - step) / 20 for step in range(20)])


def test_warm_up_takes_at_most_half_of_a_short_run():
    config = TrainingConfig(warmup_steps=30, learning_rate=1e-2, min_learning_rate=1e-3, decay_share=0.5)
    assert Schedule.from_config(config, 40) == Schedule(
        config.schedule, total_steps=40, warmup_steps=20, minimum=pytest.approx(0.1), decay_share=0.5
    )
    assert Schedule.from_config(config, 100).warmup_steps == 30


def test_each_step_moves_the_rate_by_one():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=2.0)
    scheduler = LearningRateScheduler(optimizer, Schedule("cosine", total_steps=10, warmup_steps=4))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert scheduler.state_dict() == {"step": 4}


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(kind, steps):
    schedule = Schedule(kind, total_steps=steps, warmup_steps=0, minimum=0.1)
    assert all(0.1 <= schedule.multiplier(step) <= 1 for step in range(steps))


def test_scheduler_updates_groups_replaced_by_loading_state():
    """Optimizer.load_state_dict creates new group objects; a scheduler with the old ones would have no effect."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.1}])
    scheduler = LearningRateScheduler(optimizer, Schedule("cosine", total_steps=20, warmup_steps=4))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.025])
    for _ in range(9):
        scheduler.step()
    expected = [group["lr"] for group in optimizer.param_groups]
    state, held = scheduler.state_dict(), optimizer.state_dict()
    other = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.1}])
    resumed = LearningRateScheduler(other, Schedule("cosine", total_steps=20, warmup_steps=4))
    other.load_state_dict(held)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in other.param_groups] == expected
    scheduler.step()
    resumed.step()
    assert (
        [group["lr"] for group in other.param_groups] == [group["lr"] for group in optimizer.param_groups] != expected
    )
