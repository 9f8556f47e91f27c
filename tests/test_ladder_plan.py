"""Which small runs a ladder consists of, their rates, and the noise scale."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import matrix_parameters, training_flops_per_token
from pipeline.training.config import TrainingConfig
from pipeline.training.ladder.noise_scale import measure_noise_scale, noise_scale
from pipeline.training.ladder.plan import Target, make_plan
from pipeline.training.ladder.rates import best_multiple, config_at_width, loss_at_multiple, search
from pipeline.training.ladder.sizes import scaled_model
from utils.errors import PipelineError

NARROW = ModelConfig(
    vocab_size=4096, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1
)


def target(model: ModelConfig = NARROW, *, steps: int = 5_000, val_tokens: int = 10_000) -> Target:
    return Target(model, steps, batch_size=16, step_windows=64, window=256, val_tokens=val_tokens)


@pytest.mark.parametrize("share", [0.1, 0.05])
@pytest.mark.parametrize("model", [ModelConfig(), NARROW, replace(NARROW, vocab_size=300, tie_word_embeddings=False)])
@pytest.mark.parametrize("val_tokens", [5_000, 10_000_000])
def test_plan_never_exceeds_its_share(model, share, val_tokens):
    whole = target(model, val_tokens=val_tokens)
    plan = make_plan(whole, share=share)
    train = sum(run.tokens * training_flops_per_token(run.model, 256) for run in plan.most_runs)
    score = sum(plan.val_tokens / 3 * training_flops_per_token(run.model, 256) for run in plan.most_runs)
    assert 0.8 * share * whole.flops < train + score < plan.flops <= share * whole.flops


def test_points_vary_in_size_and_length():
    plan = make_plan(target())
    assert len(plan.grid) == len({run.name for run in plan.grid}) == 10
    assert len({run.parameters for run in plan.grid}) == 4
    assert max(run.tokens for run in plan.grid) > 8 * min(run.tokens for run in plan.grid)
    assert max(run.parameters for run in plan.grid) > 3 * min(run.parameters for run in plan.grid)


def test_longest_run_has_the_tokens_per_parameter_of_the_configured_one():
    whole = target(ModelConfig())
    last = make_plan(whole).grid[-1]
    assert last.tokens / last.parameters == pytest.approx(whole.tokens / whole.parameters, rel=0.35)


def test_models_are_not_narrower_than_necessary():
    assert min(run.model.hidden_size for run in make_plan(target()).grid) >= 12


def test_shorter_runs_take_smaller_steps():
    for run in make_plan(target()).grid:
        assert run.batch_size <= 16
        expected = 64 * math.sqrt(run.tokens / target().tokens)
        assert run.batch_size * run.accumulation == pytest.approx(expected, rel=0.25)


def test_too_short_runs_and_narrow_models_are_refused():
    with pytest.raises(PipelineError, match=r"too short for a ladder: 40 steps, .*expected at least 150"):
        make_plan(target(steps=40))
    with pytest.raises(PipelineError, match="hidden_size 8 is too narrow"):
        make_plan(target(replace(NARROW, hidden_size=8, num_attention_heads=2)))


@pytest.mark.parametrize("width", [32, 96, 256])
def test_scaled_models_keep_their_proportions(width):
    model = scaled_model(ModelConfig(), width=width, head_dim=32)
    assert model.problem() == ""
    assert model.hidden_size == width
    assert model.head_dim == 32
    assert model.ffn_size / width == pytest.approx(ModelConfig().ffn_size / 384, rel=0.05)
    assert scaled_model(ModelConfig(), width=384, head_dim=64) == ModelConfig()
    assert matrix_parameters(model) < matrix_parameters(ModelConfig())


def test_search_walks_towards_the_better_rate():
    tried: list[float] = []

    def loss_at(multiple: float) -> float:
        tried.append(multiple)
        return 3 + 0.1 * (math.log(multiple) - math.log(5.0)) ** 2

    losses = search(loss_at, most_runs=6)
    assert tried == [1.0, 0.5, 2.0, 4.0, 8.0]
    assert best_multiple(losses) == pytest.approx(5.0, rel=0.02)
    assert loss_at_multiple(losses, 1.0) == losses[1.0]
    assert losses[2.0] < loss_at_multiple(losses, 1.4) < losses[1.0]


def test_rates_at_the_edge_or_next_to_divergence_are_not_interpolated():
    assert best_multiple({0.5: 3.0, 1.0: 2.9, 2.0: 2.8}) == 2.0
    assert best_multiple({0.5: 3.0, 1.0: 2.9, 2.0: math.inf}) == 1.0
    assert loss_at_multiple({0.5: 3.0, 1.0: 2.9, 2.0: math.inf}, 1.0) == 2.9


def test_rates_carry_over_by_width():
    adamw = TrainingConfig(learning_rate=1e-3, min_learning_rate=1e-4)
    narrow = config_at_width(adamw, 2.0, width=96, configured_width=384)
    assert (narrow.learning_rate, narrow.min_learning_rate) == pytest.approx((8e-3, 8e-4))
    muon = config_at_width(replace(adamw, optimizer="muon"), 2.0, width=96, configured_width=384)
    assert muon.learning_rate == pytest.approx(2e-3)
    assert muon.muon_learning_rate == pytest.approx(adamw.muon_learning_rate * 4)
    assert config_at_width(adamw, 1.0, width=384, configured_width=384) == adamw


class Quadratic(nn.Module):
    """Half the squared distance to each label: its gradient is the weight minus the label, which is noise."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, input_ids, labels, num_tokens, return_logits):
        return {"loss": 0.5 * (self.weight - input_ids).square().sum()}


def test_noise_scale_of_a_quadratic_is_its_known_noise():
    torch.manual_seed(0)
    sigma, weight = 3.0, torch.ones(50)
    samples = [sigma * torch.randn(1, 50) for _ in range(400)]
    batches = [{"input_ids": sample, "labels": torch.zeros(1, 2)} for sample in samples]
    measured = measure_noise_scale(Quadratic(weight), batches)
    assert measured == pytest.approx(sigma**2, rel=0.1)  # the variance 50 sigma² over the squared gradient 50


def test_noise_without_a_visible_gradient_is_infinite():
    assert noise_scale([4.0, 4.0], 1.0) == math.inf
    assert noise_scale([4.0, 4.0], 4.0) == 0.0
