"""Import of other programs' checkpoints: equal logits, and errors for incomplete models."""

import argparse
import json
import re
from functools import cache

import pytest
import torch

import export
from model import create_model, load_model
from pipeline.exporting.gguf_file import pair_rows
from pipeline.exporting.hf_names import from_hf_names
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.modeling.config import ModelConfig
from tests.small_models import trained_tokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError

HEADS, GROUPS, LAYERS = 4, 2, 2
SHAPE = {
    "vocab_size": 340,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-6,
}
LITGPT = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "self_attn.o_proj": "attn.proj",
    "gate_proj": "fc_1",
    "up_proj": "fc_2",
    "down_proj": "proj",
}
META = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{letter}_proj": f"attention.w{letter}" for letter in "qkvo"},
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
LITGPT_CONFIG = {"n_head": HEADS, "n_query_groups": GROUPS, "n_embd": 48, "block_size": 96, "norm_eps": 1e-6} | {
    "padded_vocab_size": 340,
    "vocab_size": 333,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "rotary_percentage": 1.0,
    "rope_base": 10000,
}
META_CONFIG = {"dim": 48, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": GROUPS, "norm_eps": 1e-6} | {
    "vocab_size": -1,
    "max_seq_len": 96,
}


@cache
def hf_model(*, tied: bool = True, qk_norm: bool = False):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    kind, make = (Qwen3Config, Qwen3ForCausalLM) if qk_norm else (LlamaConfig, LlamaForCausalLM)
    torch.manual_seed(1)
    head = {"head_dim": 12} if qk_norm else {}
    model = make(kind(**SHAPE, **head, tie_word_embeddings=tied, attention_bias=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that every part of the model affects the logits
            parameter.mul_(8 if parameter.dim() > 1 else 1).add_(torch.randn_like(parameter) * 0.05)
    return model


def state_of(model) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    return state


def renamed(state: dict[str, torch.Tensor], words: dict[str, str]) -> dict[str, torch.Tensor]:
    pattern = re.compile("|".join(map(re.escape, words)))
    return {pattern.sub(lambda found: words[found[0]], name): tensor for name, tensor in state.items()}


def fused_qkv(state: dict[str, torch.Tensor], name: str, *, by_group: bool = False) -> dict[str, torch.Tensor]:
    """`state` with each layer's queries, keys and values in one matrix called `name`."""
    result = {key: tensor for key, tensor in state.items() if not re.search(r"[qkv]_proj", key)}
    for layer in range(LAYERS):
        place = f"model.layers.{layer}.self_attn."
        q, k, v = (state[f"{place}{letter}_proj.weight"] for letter in "qkv")
        if by_group:
            parts = zip(q.chunk(GROUPS), k.chunk(GROUPS), v.chunk(GROUPS), strict=True)
            result[f"{place}{name}.weight"] = torch.cat([part for group in parts for part in group])
        else:
            result[f"{place}{name}.weight"] = torch.cat([q, k, v])
    return result


def meta_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    paired = {
        name: pair_rows(tensor, HEADS if "q_proj" in name else GROUPS) if re.search("[qk]_proj", name) else tensor
        for name, tensor in state.items()
    }
    return renamed(paired, META)


def our_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return from_hf_names(state, ModelConfig(**{key: SHAPE[key] for key in SHAPE if key != "rms_norm_eps"}))


NAMINGS = {
    "Hugging Face": (lambda s: s, lambda hf: hf.config.to_dict()),
    "Hugging Face, compiled and wrapped": (
        lambda s: {f"module._orig_mod.{name}": tensor for name, tensor in s.items()},
        lambda hf: hf.config.to_dict(),
    ),
    "litgpt": (
        lambda s: renamed(fused_qkv(s, "qkv"), LITGPT | {"self_attn.qkv": "attn.qkv"}),
        lambda hf: LITGPT_CONFIG,
    ),
    "litgpt before 0.5": (
        lambda s: renamed(fused_qkv(s, "attn", by_group=True), LITGPT | {"self_attn.attn": "attn.attn"}),
        lambda hf: LITGPT_CONFIG,
    ),
    "nanoGPT's": (
        lambda s: renamed(fused_qkv(s, "c_attn"), LITGPT | {"self_attn.c_attn": "attn.c_attn", "norm_": "ln_"}),
        lambda hf: LITGPT_CONFIG,
    ),
    "Meta": (lambda s: meta_state(s) | {"rope.freqs": torch.ones(6)}, lambda hf: META_CONFIG),
    "Meta, fused": (
        lambda s: renamed(
            fused_qkv(
                {
                    n: pair_rows(t, HEADS if "q_proj" in n else GROUPS) if re.search("[qk]_proj", n) else t
                    for n, t in s.items()
                },
                "wqkv",
            ),
            META | {"self_attn.wqkv": "attention.wqkv"},
        ),
        lambda hf: META_CONFIG,
    ),
    "ours": (our_state, lambda hf: {"num_attention_heads": HEADS, "norm_eps": 1e-6, "max_position_embeddings": 96}),
}


def imported_logits(path, tmp_path, *arguments: str):
    """The logits of the imported file, and their input ids."""
    output = tmp_path / "imported"
    assert export.main(["--import-checkpoint", str(path), "--output", str(output), *arguments]) == 0
    ids = torch.randint(SHAPE["vocab_size"], (2, 64), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return load_model(output / "checkpoint_latest.pt")(ids)["logits"], ids


def assert_same_logits(hf, path, tmp_path, *arguments: str) -> None:
    found, ids = imported_logits(path, tmp_path, *arguments)
    with torch.no_grad():
        torch.testing.assert_close(found, hf(ids).logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_foreign_checkpoint_computes_the_same_logits(tmp_path, naming):
    hf = hf_model()
    rename, config = NAMINGS[naming]
    content = {"model_state_dict": rename(state_of(hf)), "config": config(hf), "epoch": 3, "step": 12}
    torch.save(content, tmp_path / "110MPre-Trained.pt")
    assert_same_logits(hf, tmp_path / "110MPre-Trained.pt", tmp_path)
    written = read_checkpoint(tmp_path / "imported" / "checkpoint_latest.pt")
    assert (written["name"], written["step"]) == ("110MPre-Trained", 12)
    assert written["config"]["model"]["max_position_embeddings"] == 96


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["a bare state dict", "safetensors"])
def test_weights_alone_need_only_the_heads(tmp_path, kind, tied):
    hf = hf_model(tied=tied)
    path = tmp_path / ("weights.pt" if kind == "a bare state dict" else "weights.safetensors")
    if path.suffix == ".pt":
        torch.save(state_of(hf), path, _use_new_zipfile_serialization=tied)
    else:
        from safetensors.torch import save_file

        save_file(state_of(hf), path)
    config = tmp_path / "model.json"
    config.write_text(json.dumps({"num_attention_heads": HEADS, "rms_norm_eps": 1e-6}))
    assert_same_logits(hf, path, tmp_path, "--model-config", str(config))


def test_queries_with_a_norm_tell_the_heads(tmp_path, capsys):
    hf = hf_model(qk_norm=True)
    torch.save({"state_dict": state_of(hf), "args": {"norm_eps": 1e-6}}, tmp_path / "qwen.pt")
    assert_same_logits(hf, tmp_path / "qwen.pt", tmp_path)
    assert "assumed" in capsys.readouterr().out


def test_rope_pairs_can_be_set(tmp_path):
    hf = hf_model(qk_norm=True)
    state = {}
    for name, tensor in state_of(hf).items():
        if re.search("[qk]_proj", name):
            tensor = pair_rows(tensor, HEADS if "q_proj" in name else GROUPS)
        elif re.search("[qk]_norm", name):
            tensor = pair_rows(tensor[:, None], 1)[:, 0]
        state[name] = tensor
    torch.save({"state_dict": state, "args": {"norm_eps": 1e-6}}, tmp_path / "pairs.pt")
    assert_same_logits(hf, tmp_path / "pairs.pt", tmp_path, "--rope", "pairs")


def test_sample_text_detects_the_rope_variant(tmp_path, capsys, monkeypatch):
    from pipeline.exporting import import_checkpoint
    from pipeline.exporting.import_rotation import TEXT

    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    arguments = ["--import-checkpoint", str(save(tmp_path / "a.pt")), "--tokenizer", str(tokenizer.directory)]
    export.main([*arguments, "--output", str(tmp_path / "out")])
    ids = torch.tensor([tokenizer.encode(TEXT, add_bos=True)[:96]])
    with torch.no_grad():
        loss = hf_model()(ids, labels=ids).loss.item()
    assert f"loss on an English sample: {loss:.2f} nats per token" in capsys.readouterr().out
    for pairs, is_better in ((loss - 1, True), (loss + 1, False)):
        monkeypatch.setattr(
            import_checkpoint, "sample_losses", lambda *_, found=pairs: {"halves": loss, "pairs": found}
        )
        export.main([*arguments, "--output", str(tmp_path / f"out_{is_better}")])
        assert ("warning: --rope pairs fits the sample better" in capsys.readouterr().out) == is_better


def save(path, **changes):
    """A checkpoint with Hugging Face's names and `changes`; None removes a weight."""
    state = state_of(hf_model()) | changes.pop("state", {})
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save({"model_state_dict": state, "config": META_CONFIG | changes}, path)
    return path


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": {Q: None}}, f"missing: {Q}"),
        (
            {"state": {"model.layers.0.mlp.down_proj.bias": torch.ones(48)}},
            "unrecognized: model.layers.0.mlp.down_proj.b",
        ),
        ({"state": {"value_head.weight": torch.ones(1, 48)}}, "unrecognized: value_head.weight"),
        ({"state": {Q: torch.zeros(40, 48)}}, f"{Q} has shape (40, 48); expected (48, 48)"),
        ({"state": {"layers.1.attention.wq.weight": torch.zeros(48, 48)}}, f"both map to {Q}"),
        ({"state": {Q: torch.full((48, 48), torch.nan)}}, f"{Q} contains NaN"),
        ({"parallel_residual": True}, "parallel_residual=True is not supported"),
        ({"n_heads": None}, "the number of attention heads is not specified"),
        ({"n_heads": 5}, "the number of attention heads is 5"),
        ({"n_kv_heads": 4}, "the key projection has 24 rows"),
        ({"dim": 64}, "hidden_size is 64 in the configuration, but 48 in the weights"),
        ({"mlp_class_name": "GptNeoxMLP"}, "activation='GptNeoxMLP' is not supported"),
        ({"rotary_percentage": 0.25}, "rotary_percentage=0.25 is not supported"),
    ],
)
def test_incomplete_models_are_refused(tmp_path, capsys, changes, said):
    path = save(tmp_path / "a.pt", **changes)
    arguments = ["--import-checkpoint", str(path), "--output", str(tmp_path / "out")]
    assert exit_code_of(lambda: export.main(arguments)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_weights_can_be_ignored(tmp_path, capsys):
    path = save(tmp_path / "a.pt", state={"value_head.weight": torch.ones(1, 48)})
    imported_logits(path, tmp_path, "--ignore-unknown")
    assert "skipped, unrecognized: value_head.weight" in capsys.readouterr().out


class _Settings:
    """A class that must not be unpickled."""


def test_files_with_code_are_refused_with_a_conversion_command(tmp_path, capsys):
    path = tmp_path / "a.pt"
    torch.save({"model_state_dict": state_of(hf_model()), "config": _Settings()}, path)
    assert exit_code_of(lambda: export.main(["--import-checkpoint", str(path), "--output", str(tmp_path / "o")])) == 1
    error = capsys.readouterr().err
    assert "_Settings" in error
    lines = re.search(r"import torch; (torch\.save\(.*'weights\.pt'\))", error)
    code = lines[1].replace("'a.pt'", repr(str(path))).replace("'weights.pt'", repr(str(tmp_path / "weights.pt")))
    exec(code, {"torch": torch})
    config = tmp_path / "model.json"
    config.write_text(json.dumps(META_CONFIG))
    assert_same_logits(hf_model(), tmp_path / "weights.pt", tmp_path, "--model-config", str(config))


def test_a_namespace_of_options_is_read_as_configuration(tmp_path):
    content = {"state_dict": state_of(hf_model()), "args": argparse.Namespace(**META_CONFIG)}
    torch.save(content, tmp_path / "a.pt")
    assert_same_logits(hf_model(), tmp_path / "a.pt", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a checkpoint", "cannot be read"),
        ({"epoch": 3}, "contains no weights; expected one of model_state_dict"),
        ([1, 2], "contains a list; expected a dict"),
        ({"a.weight": torch.ones(2)}, "no embedding matrix recognized"),
    ],
)
def test_a_file_without_a_model_is_refused(tmp_path, capsys, content, said):
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert exit_code_of(lambda: export.main(["--import-checkpoint", str(path), "--output", str(tmp_path / "o")])) == 1
    assert said in capsys.readouterr().err


def test_folder_instead_of_file_suggests_import_hf(tmp_path):
    with pytest.raises(PipelineError, match=r"is a folder; .* --import-hf"):
        export.main(["--import-checkpoint", str(tmp_path)])


def test_an_imported_checkpoint_is_the_latest_run_and_writes(tmp_path, capsys):
    import Inference

    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    path = save(tmp_path / "110MPre-Trained.pt")
    settings = ["--set", f"paths.checkpoint_dir={tmp_path / 'checkpoints'}"]
    export.main(["--import-checkpoint", str(path), "--tokenizer", str(tokenizer.directory), *settings])
    assert f"try it: python3 main.py inference --checkpoint {tmp_path}" in capsys.readouterr().out
    assert Inference.main(["--checkpoint", "latest", "--prompt", "the fox", "--device", "cpu", *settings]) == 0
    assert capsys.readouterr().out.strip()


def test_another_tokenizer_is_refused(tmp_path):
    tokenizer = trained_tokenizer(tmp_path / "tokenizer", vocab_size=300)
    arguments = ["--import-checkpoint", str(save(tmp_path / "a.pt")), "--tokenizer", str(tokenizer.directory)]
    with pytest.raises(PipelineError, match=r"the model has 340 tokens, but the tokenizer .* has 300"):
        export.main([*arguments, "--output", str(tmp_path / "out")])


@pytest.mark.parametrize("key", ["model_state_dict", "model"])
def test_foreign_checkpoint_suggests_the_import(tmp_path, key):
    torch.save({key: state_of(hf_model()), "config": META_CONFIG, "epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(PipelineError, match=r"python3 main.py export --import-checkpoint .*a.pt"):
        load_model(tmp_path / "a.pt")


def test_checkpoint_without_configuration_suggests_the_import(tmp_path):
    torch.save({"model": our_state(state_of(hf_model()))}, tmp_path / "a.pt")
    with pytest.raises(PipelineError, match=r"no configuration.*--import-checkpoint .*a.pt --model-config"):
        load_model(tmp_path / "a.pt")


def test_our_own_checkpoint_needs_no_import(tmp_path):
    config = ModelConfig(**{key: SHAPE[key] for key in SHAPE if key != "rms_norm_eps"})
    torch.save({"model": create_model(config).state_dict(), "config": {"model": {}}}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt")["config"] == {"model": {}}
