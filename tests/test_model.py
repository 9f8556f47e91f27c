"""The model: equal to transformers' models with the same weights, plus other guarantees."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import flex_attention

from model import Decoder, TransformerLM, create_model, load_model, load_weights
from pipeline.configuration import section_to_dict
from pipeline.exporting.hf_names import from_hf_names, to_hf_names
from pipeline.modeling.attention_kernels import _compiled_flex_attention, attend, segment_block_mask, segment_mask
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.cpu_attention import blocked_causal_attention
from pipeline.modeling.execution import Execution
from utils.errors import PipelineError

SMALL = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=80,
    max_position_embeddings=32,
)


def small_model(**changes) -> TransformerLM:
    """A small model whose norm weights are not all one, so that a missing norm is detected."""
    torch.manual_seed(0)
    model = TransformerLM(replace(SMALL, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def token_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def hf_twin(model: TransformerLM):
    """transformers' model with the same shape and weights."""
    transformers = pytest.importorskip("transformers")
    config = model.config
    options = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}[config.activation],
        "head_dim": config.head_dim,
        "attention_bias": False,
    }
    kind = "Qwen3" if config.qk_norm else "Llama"
    twin = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**options))
    missing, unexpected = twin.load_state_dict(to_hf_names(model.state_dict(), config), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return twin.eval()


@pytest.mark.parametrize("activation", ["swiglu", "geglu", "reglu"])
@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_logits_and_loss_equal_those_of_transformers(activation, qk_norm, tied, groups):
    model = small_model(
        activation=activation, qk_norm=qk_norm, tie_word_embeddings=tied, num_key_value_heads=groups, rope_theta=500.0
    )
    ids = token_ids(2, 32)
    labels = ids.clone()
    labels[0, :7] = -100
    with torch.no_grad():
        ours, theirs = model(ids, labels=labels), hf_twin(model)(ids, labels=labels)
    torch.testing.assert_close(ours["logits"], theirs.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours["loss"], theirs.loss, atol=1e-6, rtol=1e-6)


def test_weights_survive_the_way_to_hugging_face_and_back():
    model = small_model(qk_norm=True)
    back = from_hf_names(hf_twin(model).state_dict(), model.config)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_later_tokens_do_not_affect_earlier_logits(norm, groups):
    model = small_model(norm=norm, num_key_value_heads=groups)
    ids = token_ids(1, 16)
    changed = ids.clone()
    changed[0, 9] = (changed[0, 9] + 1) % SMALL.vocab_size
    before, after = model(ids)["logits"], model(changed)["logits"]
    torch.testing.assert_close(before[:, :9], after[:, :9], atol=1e-6, rtol=0)
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


def test_loss_is_the_mean_unless_num_tokens_is_given():
    model, ids = small_model(), token_ids(3, 12)
    outputs = model(ids, labels=ids)
    expected = F.cross_entropy(outputs["logits"][:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(outputs["loss"], expected)
    over_ten = model(ids, labels=ids, num_tokens=10, return_logits=False)
    torch.testing.assert_close(over_ten["loss"], expected * 33 / 10)
    assert over_ten["logits"] is None


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(PipelineError, match=r"the sequence has 33 tokens, but the model's context is 32"):
        small_model()(token_ids(1, 33))


@pytest.mark.parametrize("scaling", ["linear", "ntk", "yarn"])
def test_context_can_be_extended_with_the_same_weights(scaling):
    plain = small_model()
    stretched = small_model(rope_scaling=scaling, rope_scaling_factor=4.0)
    load_weights(stretched, plain.state_dict(), origin="x.pt")
    assert stretched(token_ids(1, 128))["logits"].shape == (1, 128, SMALL.vocab_size)
    with pytest.raises(PipelineError, match=r"the sequence has 129 tokens, but the model's context is 128"):
        stretched(token_ids(1, 129))


def test_a_checkpoint_loads_equal_and_its_context_can_be_stretched(tmp_path):
    from pipeline.formats.checkpoint import write_checkpoint

    model, ids = small_model(), token_ids(1, 32)
    config = {"model": section_to_dict(model.config), "dataset": {"window": 32}}
    write_checkpoint(tmp_path / "checkpoint_latest.pt", {"model": model.state_dict(), "config": config})
    loaded = load_model(tmp_path / "checkpoint_latest.pt")
    assert not loaded.training
    assert torch.equal(loaded(ids)["logits"], model(ids)["logits"])
    stretched = load_model(tmp_path / "checkpoint_latest.pt", rope_scaling="yarn", rope_scaling_factor=2.0)
    assert stretched.config.context_length == 64
    halved = load_model(tmp_path / "checkpoint_latest.pt", dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    assert (halved(ids)["logits"] - model(ids)["logits"]).abs().max() < 0.2


@pytest.mark.parametrize("changes", [{"rope_scaling": "yarn"}, {"rope_scaling_factor": 2.0}], ids=str)
def test_half_a_scaling_is_refused(changes):
    with pytest.raises(PipelineError, match=r"rope_scaling .* expected both or neither"):
        create_model(replace(SMALL, **changes))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_keeps_gradients(dropout):
    ids, gradients = token_ids(2, 16), []
    for again in (False, True):
        model = small_model(activation_checkpointing=again, dropout=dropout).train()
        torch.manual_seed(5)
        model(ids, labels=ids)["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_for_training_only():
    model, ids = small_model(dropout=0.5), token_ids(1, 8)
    assert torch.equal(model(ids)["logits"], model(ids)["logits"])
    model.train()
    assert not torch.equal(model(ids)["logits"], model(ids)["logits"])


@pytest.mark.parametrize("silent", ["self_attn.o_proj", "mlp.down_proj"])
def test_dropout_falls_on_both_branches(silent):
    model, ids = small_model(dropout=0.5).train(), token_ids(1, 8)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.get_submodule(silent).weight.zero_()
    assert not torch.equal(model(ids)["logits"], model(ids)["logits"])


def test_depth_scaled_init_shrinks_residual_projections():
    config = replace(SMALL, hidden_size=192, num_hidden_layers=8)
    for scaled, expected in ((True, 0.02 / 4), (False, 0.02)):
        layer = TransformerLM(replace(config, depth_scaled_init=scaled)).model.layers[0]
        assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert layer.mlp.down_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert layer.self_attn.qkv_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("activation", ["swiglu", "geglu", "reglu"])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_every_combination_learns(norm, activation, groups, qk_norm, tied):
    """In a few steps on one batch, every parameter has a gradient and the loss decreases."""
    options = {"norm": norm, "activation": activation, "qk_norm": qk_norm, "tie_word_embeddings": tied}
    torch.manual_seed(0)
    model, ids = TransformerLM(replace(SMALL, num_key_value_heads=groups, **options)), token_ids(2, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(ids, labels=ids)["loss"]
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_create_model_takes_the_path_of_the_default_configuration():
    assert 24e6 < create_model("config.json").num_parameters() < 26e6


def test_weights_of_another_shape_are_refused_by_name():
    state = small_model(intermediate_size=64).state_dict()
    with pytest.raises(
        PipelineError, match=r"x\.pt does not match the model: model\.layers\.0\.mlp\.down_proj\.weight"
    ):
        load_weights(small_model(), state, origin="x.pt")


def documents(ids: torch.Tensor) -> torch.Tensor:
    """Segment ids of three documents per row, at different positions in each row."""
    starts = torch.zeros_like(ids)
    for row in range(len(ids)):
        starts[row, [3 + row, 9 + 2 * row]] = 1
    return starts.cumsum(1)


def reference_attention(q, k, v, segments):
    """A reference for attention: by the formula, head by head, row by row, segment by segment."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    result = torch.zeros_like(q)
    for row in range(len(q)):
        for segment in segments[row].unique():
            where = (segments[row] == segment).nonzero().squeeze(1)
            scores = q[row][:, where] @ k[row][:, where].transpose(1, 2) / q.shape[-1] ** 0.5
            scores = scores.masked_fill(torch.ones(len(where), len(where)).triu(1).bool(), float("-inf"))
            result[row][:, where] = scores.softmax(-1) @ v[row][:, where]
    return result


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kind", ["tensor", "blocks", pytest.param("compiled blocks", marks=pytest.mark.slow)])
def test_segments_attend_as_the_formula_says(groups, kind, monkeypatch):
    torch.manual_seed(0)
    if kind != "tensor":
        # Compiled for one shape: for any shape, torch 2.13 generates C++ that does not compile. The product uses blocks
        # on CUDA only, where it does.
        static = torch.compile(flex_attention, dynamic=False) if kind == "compiled blocks" else flex_attention
        monkeypatch.setattr("pipeline.modeling.attention_kernels._compiled_flex_attention", lambda device: static)
    length = 32 if kind == "tensor" else 256
    q, k, v = (torch.randn(2, heads, length, 16) for heads in (6, groups, groups))
    segments = documents(torch.zeros(2, length, dtype=torch.long))
    mask = (segment_mask if kind == "tensor" else segment_block_mask)(segments)
    with torch.no_grad():  # FlexAttention has no backward pass on the CPU
        torch.testing.assert_close(attend(q, k, v, mask), reference_attention(q, k, v, segments), atol=1e-5, rtol=1e-4)


def test_isolated_documents_without_compiler_suggest_an_alternative(monkeypatch):
    monkeypatch.setattr(
        "pipeline.modeling.attention_kernels.compiler_problem", lambda device: "the package triton is not installed"
    )
    q = torch.zeros(1, 2, 128, 16)
    mask = segment_block_mask(torch.zeros(1, 128, dtype=torch.long))
    _compiled_flex_attention.cache_clear()
    with pytest.raises(PipelineError, match=r"triton is not installed; use --set dataset.isolate_documents"):
        attend(q, q, q, mask)


def test_blocks_of_any_length_run_in_one_compiled_version(monkeypatch):
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr("pipeline.modeling.attention_kernels.torch.compile", partial(torch.compile, backend=counter))
    _compiled_flex_attention.cache_clear()
    for length in (400, 300, 200, 500):
        q = torch.randn(2, 2, length, 16)
        with torch.no_grad():
            attend(q, q, q, segment_block_mask(torch.zeros(2, length, dtype=torch.long)))
    _compiled_flex_attention.cache_clear()
    assert counter.frame_count == 1


@pytest.mark.parametrize("varying", [False, True])
def test_varying_lengths_build_the_mask_outside_compiled_code(monkeypatch, varying):
    seen = []

    def spy(segments):
        seen.append(torch.compiler.is_compiling())
        return segment_mask(segments)

    monkeypatch.setattr(Decoder.forward, "__kwdefaults__", {**Decoder.forward.__kwdefaults__, "make_mask": spy})
    monkeypatch.setattr("pipeline.modeling.execution.segment_mask", spy)
    monkeypatch.setattr("pipeline.modeling.execution.torch.compile", partial(torch.compile, backend="eager"))
    model, ids = small_model(), token_ids(2, 16)
    plain = model(ids, segment_ids=documents(ids))["logits"]
    model.run_as(Execution(compiled=True, varying_lengths=varying))
    compiled = model(ids, segment_ids=documents(ids))["logits"]
    torch.testing.assert_close(compiled, plain)
    assert seen[1:] == [not varying]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("length", [128, 256, 384])
def test_blocked_attention_is_attention(groups, length):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, length, 16, requires_grad=True) for heads in (6, groups, groups))
    results = []
    for attention in (blocked_causal_attention, lambda q, k, v: attend(q, k, v, None)):
        output = attention(q, k, v)
        results.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_isolated_documents_are_predicted_independently():
    model, ids = small_model(), token_ids(2, 16)
    segments = documents(ids)
    together = model(ids, segment_ids=segments)["logits"]
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % SMALL.vocab_size
    after = model(changed, segment_ids=segments)["logits"]
    for row in range(2):
        other = segments[row] != 0
        torch.testing.assert_close(together[row][other], after[row][other], atol=1e-6, rtol=0)
        assert not torch.allclose(together[row][~other], after[row][~other])
    # Only distances count in RoPE, so a document alone gives the same logits.
    alone = model(ids[:1, 3:9])["logits"]
    torch.testing.assert_close(together[:1, 3:9], alone, atol=1e-5, rtol=1e-4)


def test_without_logits_loss_and_gradients_are_the_same():
    ids = token_ids(3, 12)
    results = []
    for return_logits in (True, False):
        model = small_model().train()
        outputs = model(ids, labels=ids, return_logits=return_logits)
        outputs["loss"].backward()
        results.append([outputs["loss"].detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_bfloat16_compute_keeps_float32_weights_and_gradients():
    model, ids = small_model(num_key_value_heads=6), token_ids(2, 16)
    exact = model(ids, labels=ids)["loss"]
    model.run_as(Execution(compute_dtype=torch.bfloat16))
    outputs = model(ids, labels=ids)
    outputs["loss"].backward()
    assert outputs["logits"].dtype == model.dtype == torch.bfloat16
    assert abs(outputs["loss"] - exact) < 0.02
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
