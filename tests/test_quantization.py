"""int8 weights: close to full precision, a quarter of the size, and supported by the compiled step."""

import pytest
import torch

from model import TransformerLM
from pipeline.generation.generate import GenerationSettings, stream_tokens
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.quantization import Int8Linear, quantize_int8, quantize_rows
from utils.errors import PipelineError


def new_model(**options):
    torch.manual_seed(1)
    shape = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = TransformerLM(ModelConfig(**shape | heads | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def test_rows_are_within_half_a_step_of_the_weight():
    weight = torch.randn(20, 30) * torch.logspace(-3, 3, 20)[:, None]
    weight[3] = 0
    values, scales = quantize_rows(weight)
    assert values.dtype == torch.int8
    assert (values * scales[:, None] - weight).abs().le(scales[:, None] * 0.5001).all()


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_a_product_equals_that_of_the_dequantized_weight(rows):
    weight, x = torch.randn(48, 64), torch.randn(2, rows, 64)
    layer = Int8Linear(weight)
    expected = x @ (layer.weight * layer.scale[:, None]).T
    assert (layer(x) - expected).abs().max() < 0.02 * expected.abs().max()  # bfloat16 keeps three digits


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_model_is_accurate_and_a_quarter_the_size(tied):
    model = new_model(tie_word_embeddings=tied)
    ids = torch.randint(0, 300, (2, 40))
    full = model(ids, labels=ids)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    quantize_int8(model)
    small = model(ids, labels=ids)
    assert small["loss"].item() == pytest.approx(full["loss"].item(), rel=0.01)
    similarity = torch.cosine_similarity(small["logits"].flatten(), full["logits"].flatten(), dim=0)
    assert similarity > 0.999
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 0.28 * size


def test_quantized_generation_is_independent_of_the_batch():
    model = new_model()
    quantize_int8(model)
    settings = GenerationSettings(max_length=10, temperature=0)
    alone = list(stream_tokens(model, [1, 5, 9], settings))
    assert len(alone) == 10
    assert model.generate(torch.tensor([1, 5, 9]), max_length=10, temperature=0)[3:].tolist() == alone


def test_other_devices_are_refused_by_name():
    model = new_model().to("meta")
    with pytest.raises(PipelineError, match="int8 weights are only supported on the CPU, but the model is on meta"):
        quantize_int8(model)
