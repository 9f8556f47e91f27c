"""Packed weights: the same logits, for tied and separate heads, any number of rows."""

import copy

import pytest
import torch

from model import TransformerLM
from pipeline.generation.packed_weights import pack_weights
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.quantization import quantize_int8


def small_model(**options):
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    return TransformerLM(ModelConfig(**shape, num_attention_heads=4, num_key_value_heads=2, **options)).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False, "qk_norm": True, "norm": "layer", "activation": "geglu"},
    ],
    ids=str,
)
def test_packed_models_have_the_same_logits(options):
    model = small_model(**options)
    packed = copy.deepcopy(model)
    assert pack_weights(packed)
    for rows, length in ((1, 1), (3, 1), (2, 40)):
        ids = torch.randint(0, 97, (rows, length))
        assert torch.allclose(packed(ids)["logits"], model(ids)["logits"], atol=1e-5)
        caches = [
            KVCache(model.config, batch_size=rows, max_length=99, device="cpu", dtype=torch.float32) for _ in "12"
        ]
        for part in (ids, ids[:, :1]):
            expected, logits = (
                m(part, cache=cache)["logits"] for m, cache in zip((model, packed), caches, strict=True)
            )
            assert torch.allclose(logits, expected, atol=1e-5)


def test_other_types_of_weights_stay_as_they_are():
    assert not pack_weights(small_model().bfloat16())
    model = small_model()
    quantize_int8(model)
    ids = torch.arange(20)[None]
    expected = model(ids)["logits"]
    assert not pack_weights(model)
    assert torch.equal(model(ids)["logits"], expected)
