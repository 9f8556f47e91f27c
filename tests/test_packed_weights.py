"""Packed weights: the same logits, for tied and separate heads, any number of rows."""

import copy

import pytest
import torch

from model import TransformerLM
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.packed_weights import pack_weights
from pipeline.modeling.quantization import quantize_int8


def small_model(**options):
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    return TransformerLM(ModelConfig(**shape, num_attention_heads=4, num_key_value_heads=2, **options)).eval()


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_packed_models_have_the_same_logits(tied):
    model = small_model(tie_word_embeddings=tied)
    packed = copy.deepcopy(model)
    assert pack_weights(packed)
    for rows, length in ((1, 1), (3, 1), (2, 40)):
        ids = torch.randint(0, 97, (rows, length))
        assert torch.allclose(packed(ids)["logits"], model(ids)["logits"], atol=1e-5)


def test_other_types_of_weights_stay_as_they_are():
    assert not pack_weights(small_model().bfloat16())
    model = small_model()
    quantize_int8(model)
    ids = torch.arange(20)[None]
    expected = model(ids)["logits"]
    assert not pack_weights(model)
    assert torch.equal(model(ids)["logits"], expected)
