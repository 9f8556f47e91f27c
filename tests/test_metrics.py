"""Smoothing, throughput, best values and early stopping, with a fake clock."""

import math

import pytest

from utils.metrics import MetricsTracker, validation_metrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_values_are_means_over_the_window():
    tracker = MetricsTracker(window=3)
    for value in (10.0, 1.0, 2.0, 3.0):
        tracker.update(1, loss=value)
    assert tracker.smoothed("loss") == 2.0
    assert math.isnan(tracker.smoothed("other"))


def test_throughput_excludes_pauses():
    clock = Clock()
    tracker = MetricsTracker(window=3, clock=clock)
    assert tracker.tokens_per_second == 0.0
    for tokens in (1000, 100, 200, 300):
        clock.now += 2.0
        tracker.update(tokens)
    assert tracker.tokens_per_second == pytest.approx(600 / 6.0)
    clock.now += 1000
    tracker.start_clock()
    clock.now += 1
    tracker.update(50)
    assert tracker.tokens_per_second == pytest.approx(50.0)


def test_the_best_is_kept_and_patience_runs_out():
    tracker = MetricsTracker(patience=2)
    assert tracker.record_validation(1, loss=3.0, perplexity=20.0)
    assert tracker.record_validation(2, loss=2.0, perplexity=7.0)
    assert not tracker.record_validation(3, loss=2.5)
    assert not tracker.should_stop
    assert not tracker.record_validation(4, loss=float("nan"))
    assert tracker.should_stop
    assert (tracker.best, tracker.best_step) == ({"loss": 2.0, "perplexity": 7.0}, 2)


def test_tracker_continues_from_its_state():
    tracker = MetricsTracker(window=4, patience=3)
    for value in (1.0, 2.0, 4.0):
        tracker.update(5, loss=value)
    tracker.record_validation(1, loss=1.0)
    tracker.record_validation(2, loss=2.0)
    other = MetricsTracker(window=4, patience=3)
    other.load_state_dict(tracker.state_dict())
    assert other.state_dict() == tracker.state_dict()
    other.update(5, loss=5.0)
    assert other.smoothed("loss") == 3.0
    assert tracker.memory_bytes > 0


def test_bits_per_byte_follow_from_nats_a_token():
    metrics = validation_metrics(loss_sum=200 * math.log(2), num_tokens=50, num_bytes=100)
    assert metrics["loss"] == pytest.approx(4 * math.log(2))
    assert metrics["perplexity"] == pytest.approx(16.0)
    assert metrics["bits_per_byte"] == pytest.approx(2.0)
    assert "bits_per_byte" not in validation_metrics(10.0, 5, 0)
