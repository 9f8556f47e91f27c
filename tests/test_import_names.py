"""Names, shapes and configurations of other programs' weights, without a file."""

import pytest
import torch

from pipeline.exporting.import_checkpoint import _listed
from pipeline.exporting.import_config import foreign_config
from pipeline.exporting.import_names import halve_rows, map_names, split_fused, standard_name
from utils.errors import PipelineError

NAMES = {
    "model.embed_tokens.weight": "model.embed_tokens.weight",
    "_orig_mod.module.transformer.wte.weight": "model.embed_tokens.weight",
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "norm.scale": "model.norm.weight",
    "transformer.h.03.mlp.fc_1.weight": "model.layers.3.mlp.gate_proj.weight",
    "layers.11.attention.wq.weight": "model.layers.11.self_attn.q_proj.weight",
    "blocks.0.attn.c_attn.weight": "model.layers.0.self_attn.qkv_proj.weight",
    "blocks.0.ln_2.weight": "model.layers.0.post_attention_layernorm.weight",
    "blocks.0.ln_2.bias": None,
    "blocks.0.weight": None,
    "blocks.x.ln_1.weight": None,
    "blocks.0.attn.deeper.wq.weight": None,
    "blocks.0.other.wq.weight": None,
    "parts.0.attn.wq.weight": None,
    "something.weight": None,
    "model.weight": None,
    "weight": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_programs_are_mapped(name):
    assert standard_name(name) == NAMES[name]


@pytest.mark.parametrize(
    ("name", "tensor", "computed"),
    [
        ("layers.0.attn.bias", torch.ones(1, 1, 4, 4), True),
        ("layers.0.attn.masked_bias", torch.tensor(-1.0), True),
        ("layers.0.attn.bias", torch.zeros(4), True),
        ("layers.0.attn.bias", torch.tensor([0.0, 1.0]), False),
        ("layers.0.attn.bias", torch.zeros(2, 2), False),
        ("rope.freqs_cis", torch.ones(2), True),
        ("layers.0.rotary_emb.table", torch.ones(2), True),
        ("layers.0.attn.scales", torch.zeros(4), False),
    ],
)
def test_buffers_that_are_computed_are_left_out(name, tensor, computed):
    mapped = map_names({name: tensor})
    assert (mapped.computed, mapped.unknown) == (((name,), ()) if computed else ((), (name,)))


@pytest.mark.parametrize(("name", "pairs"), [("layers.0.attention.wq.weight", True), ("h.0.attn.q_proj.weight", False)])
def test_names_tell_how_rope_rotates(name, pairs):
    assert map_names({name: torch.ones(2, 2)}).rotates_pairs == pairs


def test_fused_weights_are_split_by_heads():
    rows = torch.arange(16.0)[:, None].expand(16, 3)
    prefix = "model.layers.0.self_attn."
    state = {f"{prefix}qkv_proj.weight": rows, "model.layers.0.mlp.gate_up_proj.weight": rows, "lm_head.weight": rows}
    parts = split_fused(state, heads=4, key_value_heads=2)
    firsts = {name.split(".")[-2]: part[:, 0].tolist() for name, part in parts.items()}
    assert firsts["q_proj"] == list(range(8))
    assert firsts["k_proj"] == list(range(8, 12))
    assert firsts["v_proj"] == list(range(12, 16))
    assert firsts["gate_proj"] == list(range(8))
    assert firsts["up_proj"] == list(range(8, 16))
    assert "lm_head.weight" in parts
    grouped = split_fused({f"{prefix}grouped_qkv.weight": rows}, heads=4, key_value_heads=2)
    firsts = {name.split(".")[-2]: part[:, 0].tolist() for name, part in grouped.items()}
    assert firsts == {
        "q_proj": [0, 1, 2, 3, 8, 9, 10, 11],
        "k_proj": [4, 5, 12, 13],
        "v_proj": [6, 7, 14, 15],
    }


def test_rows_of_neighbours_become_rows_of_halves():
    rows = torch.arange(8.0)[:, None]
    state = {"a.q_proj.weight": rows, "a.k_norm.weight": torch.arange(4.0), "a.v_proj.weight": rows}
    halved = halve_rows(state, 4)
    assert halved["a.q_proj.weight"].flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert halved["a.k_norm.weight"].tolist() == [0, 2, 1, 3]
    assert halved["a.v_proj.weight"] is rows


def weights(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Of a model of two layers, 24 wide, with four heads and two key-value heads."""
    usual = {
        "model.embed_tokens": (50, 24),
        "lm_head": (50, 24),
        "model.layers.1.self_attn.k_proj": (12, 24),
        "model.layers.0.mlp.gate_proj": (32, 24),
    }
    return {f"{name}.weight": torch.ones(shape) for name, shape in (usual | shapes).items()}


def test_the_weights_determine_most_of_the_configuration():
    found = foreign_config({"n_head": 4, "rope_base": 5e5, "norm_eps": 1e-6, "n_layer": -1}, weights(), origin="a.pt")
    assert found.assumed == ("max_position_embeddings", "norm", "activation")
    assert found.values == {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
        "qk_norm": False,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 5e5,
        "norm_eps": 1e-6,
        "max_position_embeddings": 1024,
        "norm": "rms",
        "activation": "swiglu",
    }


def test_fused_weights_and_norms_determine_it_too():
    state = weights(**{"model.layers.0.self_attn.q_norm": (6,)})
    del state["model.layers.1.self_attn.k_proj.weight"], state["model.layers.0.mlp.gate_proj.weight"]
    del state["lm_head.weight"]
    state["model.layers.1.self_attn.qkv_proj.weight"] = torch.ones(24 + 2 * 12, 24)
    state["model.layers.0.mlp.gate_up_proj.weight"] = torch.ones(64, 24)
    values = foreign_config({}, state, origin="a.pt").values
    assert (values["num_attention_heads"], values["num_key_value_heads"], values["qk_norm"]) == (4, 2, True)
    assert values["intermediate_size"] == 32
    assert values["tie_word_embeddings"] is True
    state["lm_head.weight"] = torch.zeros(50, 24)
    assert foreign_config({}, state, origin="a.pt").values["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("stated", "shapes", "said"),
    [
        ({}, {}, "attention heads is not specified"),
        ({"n_head": 5}, {}, "attention heads is 5 and"),
        ({"n_head": 4, "n_kv_heads": 4}, {}, "has 12 rows.* 4 heads of size 6 and 4 key-value heads"),
        ({"n_head": 4}, {"model.layers.1.self_attn.k_proj": (13, 24)}, "has 13 rows"),
        ({"n_head": 4, "dim": 32}, {}, "hidden_size is 32 in the configuration, but 24 in the weights"),
        ({"n_head": 4, "rotary_percentage": 0.5}, {}, "rotary_percentage=0.5 is not supported"),
        ({"n_head": 4, "norm_type": "batch"}, {}, "norm='batch' is not supported; expected one of rms"),
        ({"n_head": 4}, {"model.embed_tokens": (50,)}, "no embedding matrix"),
    ],
)
def test_configurations_that_do_not_fit_the_weights_are_refused(stated, shapes, said):
    with pytest.raises(PipelineError, match=said):
        foreign_config(stated, weights(**shapes), origin="a.pt")


@pytest.mark.parametrize("key", ["rotary_percentage", "rope_condense_ratio"])
def test_values_that_change_nothing_are_accepted(key):
    assert foreign_config({"n_head": 4, key: 1}, weights(), origin="a.pt")


def test_a_message_lists_eight_names():
    assert _listed("abcdefgh") == "a, b, c, d, e, f, g, h"
    assert _listed("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"
