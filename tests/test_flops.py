"""Compare the count of operations with PyTorch's counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import create_model
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import matrix_parameters, training_flops_per_token


@pytest.mark.parametrize("tied", [True, False])
def test_flops_match_pytorchs_counter_without_causal_attention(tied):
    config = ModelConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    model = create_model(config)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed_tokens" not in name)
    assert matrix_parameters(config) == matrices + (96 * 32 if tied else 0)
    ids = torch.randint(0, 96, (2, 64))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fast kernels are not counted
        model(ids, labels=ids)["loss"].backward()
    expected = training_flops_per_token(config, 64) * ids.numel()
    assert counter.get_total_flops() == expected
