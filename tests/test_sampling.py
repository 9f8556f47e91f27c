"""Sampling: filters match their definitions, batches match single rows, frequencies match probabilities."""

import pytest
import torch

from pipeline.generation.sampling import sample_next_token
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def draw_many(logits, settings, *, count=4000):
    uniform = (torch.arange(count) + 0.5) / count
    return sample_next_token(logits.expand(count, -1), [settings] * count, uniform=uniform)


def frequencies(logits, **options):
    tokens = draw_many(logits, GenerationSettings(**PLAIN | options))
    return torch.bincount(tokens, minlength=logits.shape[-1]) / len(tokens)


def reference(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seen=()):
    """A reference for the distribution: one token at a time, in the documented order."""
    scores = logits.double().tolist()
    for token in seen:
        scores[token] = scores[token] / repetition_penalty if scores[token] > 0 else scores[token] * repetition_penalty
    weights = torch.tensor([score / temperature for score in scores]).softmax(0).tolist()
    kept = sorted(range(len(weights)), key=lambda i: -weights[i])[: top_k or None]
    total, running, nucleus = sum(weights[i] for i in kept), 0.0, []
    for i in kept:
        if running < top_p or not nucleus:
            nucleus.append(i)
        running += weights[i] / total
    kept = [i for i in nucleus if weights[i] >= min_p * max(weights)]
    result = torch.zeros(len(weights))
    for i in kept:
        result[i] = weights[i] / sum(weights[j] for j in kept)
    return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"top_k": 5, "top_p": 0.8, "min_p": 0.1, "temperature": 1.7},
        {"top_k": 500},
    ],
)
def test_draws_follow_the_distribution(options):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 1.5
    assert torch.allclose(frequencies(logits, **options), reference(logits[0], **options), atol=1e-3)


def test_repetition_penalty_comes_first():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]])
    seen = torch.tensor([[True, False, True, False]])
    settings = GenerationSettings(**PLAIN | {"repetition_penalty": 3.0, "top_k": 3})
    uniform = (torch.arange(3000) + 0.5) / 3000
    tokens = sample_next_token(logits.expand(3000, -1), [settings] * 3000, uniform=uniform, seen=seen.expand(3000, -1))
    expected = reference(logits[0], repetition_penalty=3.0, top_k=3, seen=[0, 2])
    assert torch.allclose(torch.bincount(tokens, minlength=4) / 3000, expected, atol=1e-3)


def test_rows_of_different_settings_do_not_touch_each_other():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 50, generator=generator) * 3
    uniform = torch.rand(7, generator=generator)
    options = [{}, {"top_k": 4}, {"top_p": 0.6}, {"temperature": 0.0}, {"min_p": 0.3}, {"top_k": 30, "top_p": 0.5}]
    settings = [GenerationSettings(**PLAIN | chosen) for chosen in options] + [GenerationSettings()]
    together = sample_next_token(logits, settings, uniform=uniform)
    alone = [sample_next_token(logits[i : i + 1], [settings[i]], uniform=uniform[i : i + 1]) for i in range(7)]
    assert together.tolist() == torch.cat(alone).tolist()


def test_each_row_keeps_to_its_own_top_k():
    logits = torch.randn(1, 40).expand(200, -1)
    settings = [GenerationSettings(temperature=5.0, top_k=3 if row % 2 else 20, top_p=1.0) for row in range(200)]
    tokens = sample_next_token(logits, settings, uniform=(torch.arange(200) + 0.5) / 200)
    assert set(tokens[1::2].tolist()) == set(logits[0].topk(3).indices.tolist())
    assert set(tokens[::2].tolist()) == set(logits[0].topk(20).indices.tolist())


def test_temperature_zero_is_greedy_and_a_tiny_one_is_finite():
    logits = torch.tensor([[1.0, 30.0, 29.999, -1e4]])
    for temperature in (0.0, 1e-30, 1e-5):
        assert set(draw_many(logits, GenerationSettings(temperature=temperature), count=50).tolist()) == {1}


def test_extreme_uniform_numbers_stay_inside_the_candidates():
    logits = torch.randn(2, 1000)
    for settings in (GenerationSettings(top_k=3, top_p=1.0), GenerationSettings(top_k=0, top_p=0.5)):
        tokens = sample_next_token(logits, [settings] * 2, uniform=torch.tensor([0.0, 1.0]))
        best = logits.topk(500).indices
        assert all(token in row for token, row in zip(tokens.tolist(), best.tolist(), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"max_length": 0},
        {"seed": -1},
        {"on_overflow": "ignore"},
        {"stop": ("",)},
    ],
)
def test_impossible_settings_are_refused_by_name(options):
    with pytest.raises(PipelineError) as error:
        GenerationSettings(**options)
    name = next(iter(options)).replace("stop", "a stop string")
    assert str(error.value).startswith(name)
    assert "expected" in str(error.value)
