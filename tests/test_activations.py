"""The gated blocks: formulas, width, and use in the model."""

import pytest
import torch
import torch.nn.functional as F

from model import create_model
from pipeline.modeling.config import ModelConfig
from utils.activations import GeGLU, ReGLU, SwiGLU

GATES = {SwiGLU: F.silu, GeGLU: F.gelu, ReGLU: F.relu}
NAMES = {"swiglu": SwiGLU, "geglu": GeGLU, "reglu": ReGLU}


@pytest.mark.parametrize("block", GATES)
def test_a_gated_block_is_its_formula(block):
    torch.manual_seed(0)
    module, x = block(48, 80), torch.randn(2, 5, 48)
    gate, up = module.gate_up_proj.weight.split(80)
    expected = (GATES[block](x @ gate.T) * (x @ up.T)) @ module.down_proj.weight.T
    torch.testing.assert_close(module(x), expected)
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [(160, 48), (48, 80)]


@pytest.mark.parametrize(("width", "inside"), [(48, 128), (384, 1024), (768, 2048), (1000, 2688)])
def test_the_width_inside_follows_from_the_width(width, inside):
    assert (
        SwiGLU(width).down_proj.in_features == inside == ModelConfig(hidden_size=width, intermediate_size=None).ffn_size
    )


@pytest.mark.parametrize(("activation", "block"), NAMES.items())
def test_the_model_is_made_of_these_blocks(activation, block):
    model = create_model(ModelConfig(vocab_size=64, num_hidden_layers=1, activation=activation))
    assert type(model.model.layers[0].mlp) is block
    assert "model.layers.0.mlp.gate_up_proj.weight" in model.state_dict()
