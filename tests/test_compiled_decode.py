"""The compiled decode step: its computation for every model option, and the compiled code with its disk cache."""

import shutil

import pytest
import torch

from model import TransformerLM
from pipeline.generation.compiled_decode import cache_path, compiled_decoder
from pipeline.generation.decode_step import DecodeStep
from pipeline.generation.generate import GenerationSettings, generate_batch, stream_tokens
from pipeline.modeling import compiler
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.quantization import quantize_int8
from utils.errors import PipelineError

OPTIONS = [
    {},
    {"qk_norm": True},
    {"norm": "layer", "activation": "geglu", "tie_word_embeddings": False},
    {"num_key_value_heads": 4, "activation": "reglu"},
    {"num_key_value_heads": 1, "rope_theta": 500.0},
    {"rope_scaling": "yarn", "rope_scaling_factor": 2.0},
]


def new_model(**options):
    torch.manual_seed(2)
    shape = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48}
    model = TransformerLM(ModelConfig(**shape | heads | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("quantized", [False, True])
def test_the_step_equals_the_forward_pass(options, quantized):
    model = new_model(**options)
    if quantized:
        quantize_int8(model)
    ids = torch.randint(0, 120, (1, 9))
    cache = KVCache(model.config, batch_size=1, max_length=20, device="cpu", dtype=torch.float32)
    model(ids[:, :8], cache=cache)
    rotary = model.model.rotary
    step = DecodeStep(model)
    logits, keys, values = step(
        ids[0, 8:], rotary.cos[8], rotary.sin[8], cache.keys[0], cache.values[0], torch.zeros(8)
    )
    expected = model(ids[:, 8:], cache=cache)["logits"][0, 0]
    tolerance = 0.02 * expected.abs().max() if quantized else 1e-4  # the plain int8 product has bfloat16's digits
    assert (logits - expected).abs().max() < tolerance
    assert (keys - cache.keys[0, :, :, 8]).abs().max() < (0.1 if quantized else 1e-4)
    assert (values - cache.values[0, :, :, 8]).abs().max() < (0.1 if quantized else 1e-4)


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_auto_compiles_nothing_and_the_name_changes_with_the_shape(cache_home):
    model = new_model()
    assert compiled_decoder(model, "auto") is None
    assert compiled_decoder(model, "off") is None
    assert not any(cache_home.iterdir())
    changes = [{"qk_norm": True}, {"hidden_size": 64}, {"norm": "layer"}, {"activation": "geglu"}, {"norm_eps": 1e-3}]
    others = [new_model().bfloat16(), *(new_model(**change) for change in changes)]
    assert len({cache_path(variant) for variant in [model, *others]}) == 7
    same = [new_model(), new_model(rope_theta=7.0, dropout=0.1, max_position_embeddings=99)]
    assert {cache_path(variant) for variant in same} == {cache_path(model)}


def test_without_a_compiler_on_says_so_and_auto_goes_without(cache_home, monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert compiled_decoder(new_model(), "auto") is None
    with pytest.raises(PipelineError, match=r"generation.compile is on, but no C\+\+ compiler"):
        compiled_decoder(new_model(), "on")


def test_int8_is_not_compiled_where_that_is_slower(cache_home, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = new_model()
    quantize_int8(model)
    assert compiled_decoder(model, "auto") is None
    with pytest.raises(PipelineError, match="int8 weights are slower compiled on processors without AVX-512"):
        compiled_decoder(model, "on")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_compiled_step_works_for_all_checkpoints_of_a_shape(cache_home, capfd):
    model = new_model(qk_norm=True)
    settings = GenerationSettings(max_length=100, temperature=0)  # twice beyond the context of 48
    decoder = compiled_decoder(model, "on")
    assert list(stream_tokens(model, [1, 5], settings, decoder=decoder)) == list(stream_tokens(model, [1, 5], settings))
    assert list(stream_tokens(model, [1], settings, decoder=decoder)) == list(stream_tokens(model, [1], settings))
    again = new_model(qk_norm=True)
    with torch.no_grad():
        again.model.embed_tokens.weight.add_(0.1)
    decoder = compiled_decoder(again, "auto")
    expected = list(stream_tokens(again, [1, 5], settings))
    assert list(stream_tokens(again, [1, 5], settings, decoder=decoder)) == expected
    both = generate_batch(again, [[1, 5], [1, 9, 8]], settings, decoder=decoder)
    assert both[0] == expected
