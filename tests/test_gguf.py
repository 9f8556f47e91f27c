"""GGUF files: the round trip preserves the model, rows are in llama.cpp's order, and llama.cpp agrees."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import export
from model import load_model
from pipeline.configuration import load_config
from pipeline.exporting.gguf_check import check_gguf_file
from pipeline.exporting.gguf_file import _token_type, gguf_name, gguf_tensors, pair_rows, piece_scores
from pipeline.generation.loading import load_for_inference
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError

SHAPES = {
    "llama": {"chat": True},
    "qwen3": {"qk_norm": True},
    "untied": {"tie_word_embeddings": False},
    "linear": {"rope_scaling": "linear", "rope_scaling_factor": 2.0},
    "yarn": {"rope_scaling": "yarn", "rope_scaling_factor": 2.0},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("gguf") / "tokenizer")


def fields_of(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    return {name: fields[name].contents() for name in fields if not name.startswith("GGUF.")}


@pytest.mark.parametrize("name", SHAPES)
def test_gguf_round_trip(tokenizer, tmp_path, name, capsys):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer, **SHAPES[name])
    assert export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf")]) == 0
    assert "tensors verified" in capsys.readouterr().out
    fields = fields_of(tmp_path / "a.gguf")
    assert fields["general.architecture"] == ("qwen3" if name == "qwen3" else "llama")
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.bos_id
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert ("tokenizer.chat_template" in fields) == (name == "llama")
    assert "generation" not in fields.get("tokenizer.chat_template", "").replace("add_generation_prompt", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "a.pt"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_size_weights_are_read_again(tokenizer, tmp_path, dtype):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    arguments = ["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf"), "--dtype", dtype]
    assert export.main(arguments) == 0
    assert (tmp_path / "a.gguf").stat().st_size < 160_000


def test_neighbouring_rows_rotate_as_halves_did():
    """llama.cpp's rotation of (2i, 2i + 1) on the paired rows is ours of (i, i + D/2), put into the same order."""
    heads, size = 3, 8
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(heads * size, 5, generator=generator), torch.randn(5, generator=generator)
    angles = torch.rand(size // 2, generator=generator)

    def rotate(first, second):
        return first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()

    halves = (weight @ x).view(heads, 2, size // 2)
    ours = torch.stack(rotate(halves[:, 0], halves[:, 1]), dim=-1).flatten(1)  # in pairs
    paired = (pair_rows(weight, heads) @ x).view(heads, size // 2, 2)
    theirs = torch.stack(rotate(paired[..., 0], paired[..., 1]), dim=-1).flatten(1)
    torch.testing.assert_close(theirs, ours)


def test_only_the_llama_architecture_has_its_rows_paired(tokenizer, tmp_path):
    for shape, paired in (({}, True), ({"qk_norm": True}, False)):
        model = load_model(small_checkpoint(tmp_path / "a.pt", tokenizer, **shape))
        fused = model.state_dict()["model.layers.0.self_attn.qkv_proj.weight"]
        q = fused[: model.config.hidden_size]
        wanted = pair_rows(q, model.config.num_attention_heads) if paired else q
        assert torch.equal(gguf_tensors(model)["blk.0.attn_q.weight"], wanted)


def test_names_are_ggufs():
    assert gguf_name("model.layers.11.post_attention_layernorm.weight") == "blk.11.ffn_norm.weight"
    assert gguf_name("lm_head.weight") == "output.weight"


def test_pieces_that_merge_earlier_score_higher(tokenizer):
    scores, pieces = piece_scores(tokenizer.vocabulary), tokenizer.vocabulary.pieces
    rank = {left + right: number for number, (left, right) in reversed(list(enumerate(tokenizer.vocabulary.merges)))}
    merged = sorted(rank, key=rank.__getitem__)
    assert np.all(np.diff([scores[pieces.index(piece)] for piece in merged]) < 0)


def test_a_file_that_differs_is_an_error(tokenizer, tmp_path):
    config = load_config()
    first = small_checkpoint(tmp_path / "a.pt", tokenizer)
    other = small_checkpoint(tmp_path / "b.pt", tokenizer, weight_scale=4.0)
    export.main(["--checkpoint", str(first), "--gguf", str(tmp_path / "a.gguf")])
    loaded = load_for_inference(str(other), config, device="cpu", dtype="float32")
    with pytest.raises(PipelineError, match="differs from the checkpoint's"):
        check_gguf_file(tmp_path / "a.gguf", loaded, dtype=torch.float32)


def test_gguf_file_is_replaced_only_with_overwrite(tokenizer, tmp_path):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    arguments = ["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf")]
    (tmp_path / "a.gguf").write_bytes(b"mine")
    with pytest.raises(PipelineError, match="is not a GGUF file"):
        export.main([*arguments, "--overwrite"])
    assert (tmp_path / "a.gguf").read_bytes() == b"mine"
    (tmp_path / "a.gguf").write_bytes(b"GGUF, an earlier one")
    with pytest.raises(PipelineError, match="--overwrite"):
        export.main(arguments)
    assert export.main([*arguments, "--overwrite"]) == 0
    geglu = small_checkpoint(tmp_path / "b.pt", tokenizer, activation="geglu")
    with pytest.raises(PipelineError, match="GeGLU"):
        export.main(["--checkpoint", str(geglu), "--gguf", str(tmp_path / "b.gguf")])
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_gives_the_same_tokens_logits_and_greedy_text(tokenizer, tmp_path, name):
    pytest.importorskip("llama_cpp", reason="pip install -r requirements-slow.txt")
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer, **SHAPES[name])
    loaded = load_for_inference(str(checkpoint), load_config(), device="cpu", dtype="float32")
    measured = export.export_to_gguf(loaded, tmp_path / "a.gguf")
    assert measured["logit_difference"] < 1e-5
    assert measured["greedy_tokens"] == 48


@pytest.mark.slow
def test_llama_cpp_finds_rows_that_are_not_paired(tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp", reason="pip install -r requirements-slow.txt")
    monkeypatch.setattr("pipeline.exporting.gguf_file.pair_rows", lambda weight, heads: weight)
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    with pytest.raises(PipelineError, match=r"llama\.cpp's logits differ"):
        export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf")])


@pytest.mark.slow
def test_llama_cpp_tokenizes_as_we_do_with_the_real_vocabulary(real_data, tmp_path):
    pytest.importorskip("llama_cpp", reason="pip install -r requirements-slow.txt")
    import llama_cpp

    from tokenizer import load_tokenizer

    (tmp_path / "tokenizer").mkdir()
    model = (real_data / "tokenizer" / "codellama_reconstructed.model").read_bytes()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(model)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    assert export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf")]) == 0
    theirs = llama_cpp.Llama(str(tmp_path / "a.gguf"), vocab_only=True, verbose=False)
    texts = (real_data / "wikitext" / "wiki.valid.raw").read_text(encoding="utf-8").splitlines()[:300]
    for text in [*texts, "def f(x):\n\treturn x ** 2  # 🙂", "</s><s>"]:
        ids = theirs.tokenize(text.encode("utf-8"), add_bos=True, special=False)
        assert ids == tokenizer.encode(text, add_bos=True), text


def test_gguf_is_imported_lazily():
    code = "import sys, export; sys.exit(bool({'gguf', 'transformers', 'llama_cpp'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pieces_have_the_types_of_llama_cpp(tokenizer):
    import gguf

    vocabulary = tokenizer.vocabulary
    kinds = {piece: _token_type(vocabulary, place) for place, piece in enumerate(vocabulary.pieces)}
    assert (kinds["<unk>"], kinds["<s>"], kinds["</s>"]) == (
        gguf.TokenType.UNKNOWN,
        gguf.TokenType.CONTROL,
        gguf.TokenType.CONTROL,
    )
    assert kinds["<0x41>"] == gguf.TokenType.BYTE
    assert kinds["the" if "the" in kinds else vocabulary.pieces[-1]] == gguf.TokenType.NORMAL
