"""GGUF files: the round trip preserves the model, rows are in llama.cpp's order, and llama.cpp agrees."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import export
from model import TransformerLM, load_model
from pipeline.configuration import load_config
from pipeline.exporting.comparison import NEW_TOKENS
from pipeline.exporting.gguf_check import check_gguf_file
from pipeline.exporting.gguf_file import (
    _token_type,
    gguf_name,
    gguf_tensors,
    pair_rows,
    piece_scores,
    write_gguf_file,
)
from pipeline.generation.loading import load_for_inference
from pipeline.tokenization.interface import Tokenizer
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


def test_a_tokenizer_with_fewer_tokens_is_refused(tokenizer, tmp_path):
    loaded = load_for_inference(
        str(small_checkpoint(tmp_path / "a.pt", tokenizer)), load_config(), device="cpu", dtype="float32"
    )
    fewer = SimpleNamespace(vocabulary=SimpleNamespace(pieces=tokenizer.vocabulary.pieces[:-1]))
    with pytest.raises(PipelineError, match=f"has {tokenizer.vocab_size - 1} tokens, but the model has"):
        write_gguf_file(replace(loaded, tokenizer=fewer), tmp_path / "a.gguf", dtype=torch.float32)
    assert not (tmp_path / "a.gguf").exists()


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


class FakeLlama:
    """Answers as llama.cpp would, with our own model; `wrong` is what it does differently."""

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, wrong: str) -> None:
        self.model, self.tokenizer, self.wrong = model, tokenizer, wrong
        self.options: dict[str, object] = {}

    def open(self, path: str, **options: object) -> "FakeLlama":
        self.options = options
        return self

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        ids = self.tokenizer.encode(text.decode(), add_bos=add_bos or special)
        return [*ids, 5] if self.wrong == "tokenizes" else ids

    def reset(self) -> None:
        self.scores: list[list[float]] = []

    @torch.no_grad()
    def eval(self, ids: list[int]) -> None:
        logits = self.model(torch.tensor([ids]))["logits"][0]
        self.scores = [*(logits * (1.5 if self.wrong == "logits" else 1)).tolist(), [0.0] * logits.shape[1]]

    @torch.no_grad()
    def generate(self, prompt: list[int], *, temp: float, top_k: int, repeat_penalty: float) -> Iterator[int]:
        assert (temp, top_k, repeat_penalty) == (0.0, 1, 1.0)
        ids = list(prompt)
        while True:
            ids.append(int(self.model(torch.tensor([ids]))["logits"][0, -1].argmax()))
            yield 7 if self.wrong == "greedy tokens" else ids[-1]


def test_an_answer_of_llama_cpp_that_differs_is_an_error(tokenizer, tmp_path, monkeypatch):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer, weight_scale=2.0)
    loaded = load_for_inference(str(checkpoint), load_config(), device="cpu", dtype="float32")
    export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "a.gguf")])
    fake = FakeLlama(loaded.model, tokenizer, "")
    module = SimpleNamespace(Llama=fake.open, GGML_TYPE_F32=0, __spec__="found")
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    found = check_gguf_file(tmp_path / "a.gguf", loaded, dtype=torch.float32)
    assert found["greedy_tokens"] == 2 * NEW_TOKENS
    assert found["logit_difference"] < 1e-6
    window = loaded.model.config.context_length
    assert fake.options == {
        **{"n_ctx": window, "n_batch": window, "n_gpu_layers": 0, "logits_all": True, "verbose": False, "seed": 0},
        **{"type_k": 0, "type_v": 0, "flash_attn": False},
    }
    for fake.wrong in ("tokenizes", "logits", "greedy tokens"):
        with pytest.raises(PipelineError, match=f"llama.cpp.*{fake.wrong}"):
            check_gguf_file(tmp_path / "a.gguf", loaded, dtype=torch.float32)
