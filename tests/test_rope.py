"""Rotary embeddings: transformers' frequencies, relative positions, scaled contexts."""

from dataclasses import replace

import pytest
import torch

from pipeline.modeling.config import ModelConfig
from utils.rope import RotaryEmbedding, apply_rotary, rope_frequencies

CONFIG = ModelConfig(max_position_embeddings=128)  # heads of 64


def hf_frequencies(scaling: str, factor: float) -> tuple[torch.Tensor, float]:
    """transformers' frequencies for the same scaling."""
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    parameters = {"rope_type": {"ntk": "dynamic"}.get(scaling, scaling), "rope_theta": CONFIG.rope_theta}
    # Their dynamic NTK grows with the sequence: at factor 1, `factor` times the context gives the plain one.
    parameters["factor"] = 1.0 if scaling == "ntk" else factor
    if scaling == "yarn":
        parameters["original_max_position_embeddings"] = CONFIG.max_position_embeddings
    config = LlamaConfig(
        hidden_size=CONFIG.hidden_size,
        num_attention_heads=CONFIG.num_attention_heads,
        max_position_embeddings=CONFIG.max_position_embeddings,
        rope_parameters=parameters,
    )
    compute = rope_utils.ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
    return compute(config, torch.device("cpu"), seq_len=int(CONFIG.max_position_embeddings * factor))


@pytest.mark.parametrize("scaling", ["linear", "ntk", "yarn"])
@pytest.mark.parametrize("factor", [1.5, 4.0, 32.0])
def test_scaled_frequencies_equal_those_of_transformers(scaling, factor):
    frequencies, attention_factor = rope_frequencies(replace(CONFIG, rope_scaling=scaling, rope_scaling_factor=factor))
    expected, expected_factor = hf_frequencies(scaling, factor)
    torch.testing.assert_close(frequencies.float(), expected, rtol=2e-6, atol=0)
    assert attention_factor == pytest.approx(expected_factor)


def test_the_score_of_two_tokens_depends_on_their_distance_only():
    rotary = RotaryEmbedding(CONFIG)
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)

    def score(query_at: int, key_at: int) -> float:
        rotated = [apply_rotary(x, *rotary(torch.tensor([at]))) for x, at in ((q, query_at), (k, key_at))]
        return (rotated[0] * rotated[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_positions_may_differ_by_row_and_heads_by_number():
    rotary, x = RotaryEmbedding(CONFIG), torch.randn(2, 5, 3, 64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    both = apply_rotary(x, *rotary(positions))
    for row in range(2):
        torch.testing.assert_close(both[row : row + 1], apply_rotary(x[row : row + 1], *rotary(positions[row])))


def test_the_tables_stay_exact_when_the_weights_become_bfloat16():
    rotary, exact = RotaryEmbedding(CONFIG), RotaryEmbedding(CONFIG).cos
    assert torch.equal(rotary.to(torch.bfloat16).cos, exact)
    with torch.device("meta"):
        empty = RotaryEmbedding(CONFIG)
    assert torch.equal(empty.to_empty(device="cpu").cos, exact)
