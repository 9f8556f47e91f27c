"""Compare both engines with SentencePiece: property tests, and the real tokenizer on real files."""

import json
import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from pipeline.tokenization.bpe_training import train_vocabulary
from pipeline.tokenization.bulk_encoding import PROBES, BulkEncoder
from pipeline.tokenization.vocabulary import BYTE_PIECES, SPECIAL_PIECES, Vocabulary
from tokenizer import WikipediaTokenizer, load_tokenizer
from utils.errors import PipelineError

REAL = os.environ.get("LLM_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="LLM_REAL_DATA is not set")

# What tokenizers differ on: runs, edges, what looks like special or byte tokens, characters without a piece.
HARD = st.sampled_from([*" \t\n\r\x00\u00a0▁ab01<>", "aa", "  ", "<s>", "</s>", "<unk>", "<0x0A>", "the", " the", "é"])
ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4)
TEXTS = st.lists(st.one_of(HARD, ANY, st.sampled_from("👩‍👩‍👧e\u0301🏳️‍🌈東京")), max_size=30).map("".join)


def model_proto(vocabulary: Vocabulary, scores: list[float] | None = None) -> ModelProto:
    """`vocabulary` as a SentencePiece file, with each piece scored by its id like Llama's."""
    proto = ModelProto()
    for i, piece in enumerate(vocabulary.pieces):
        kind = 2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1
        proto.pieces.add(piece=piece, score=scores[i] if scores else min(0.0, 259.0 - i), type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = 2, True, len(vocabulary.pieces)
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", True, False
    return proto


@pytest.fixture(scope="module")
def trained() -> WikipediaTokenizer:
    return WikipediaTokenizer.from_vocabulary(train_vocabulary(list(topics.values())[:40], 700), "trained")


@pytest.fixture(scope="module")
def processor(trained) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=model_proto(trained.vocabulary).SerializeToString())


def assert_equal_to_sentencepiece(tokenizer, processor, texts):
    for text, bulk in zip(texts, tokenizer.encode_batch(texts), strict=True):
        wanted = processor.encode(text)
        assert tokenizer.encode(text) == wanted, repr(text)
        assert bulk.tolist() == wanted, repr(text)
        if "▁" not in text:
            assert tokenizer.decode(wanted) == text


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="<s> </s>")
def test_a_trained_tokenizer_gives_sentencepieces_ids_on_every_text(trained, processor, text):
    assert_equal_to_sentencepiece(trained, processor, [text])


@pytest.fixture(scope="module", params=["codellama_reconstructed.model", "llama2_tokenizer.model"])
def real(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    source = Path(REAL) / "tokenizer" / request.param
    (folder / "tokenizer.model").write_bytes(source.read_bytes())
    return load_tokenizer(folder), SentencePieceProcessor(model_file=str(source))


@needs_real_data
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_codellama_gives_sentencepieces_ids_on_every_text(real, text):
    assert_equal_to_sentencepiece(*real, [text])


@needs_real_data
def test_codellama_gives_sentencepieces_ids_on_the_real_files(real):
    texts = list(PROBES)
    for name in ("fineweb/c4_300_docs", "wiki_text/gensim_enwiki_articles", "lambada/lambada_test_first500"):
        with (Path(REAL) / f"{name}.jsonl").open(encoding="utf-8", newline="\n") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    texts += (Path(REAL) / "wikitext/wiki.valid.raw").read_bytes().decode().split("\n")
    assert_equal_to_sentencepiece(*real, texts)


@needs_real_data
def test_codellamas_extra_pieces_are_text_that_sentencepiece_finds(real):
    tokenizer, processor = real
    extra = [piece.replace("▁", " ") for piece in tokenizer.vocabulary.pieces[32000:]]
    assert len(extra) == tokenizer.vocab_size - 32_000
    assert_equal_to_sentencepiece(tokenizer, processor, [*extra, *(f"a{probe} b{probe}" for probe in extra)])


@needs_real_data
def test_model_and_json_have_equal_fingerprint_and_ids(real, tmp_path):
    tokenizer, _ = real
    tokenizer.save(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved.fingerprint == tokenizer.fingerprint
    assert saved.vocabulary == tokenizer.vocabulary


def test_merges_are_ordered_by_score(trained, tmp_path):
    """With reversed scores, the last piece merges first; a conversion by id would fail."""
    scores = [float(i) for i in range(trained.vocab_size)]
    proto = model_proto(trained.vocabulary, scores).SerializeToString()
    (tmp_path / "tokenizer.model").write_bytes(proto)
    turned = load_tokenizer(tmp_path)
    assert turned.fingerprint != trained.fingerprint
    assert_equal_to_sentencepiece(turned, SentencePieceProcessor(model_proto=proto), list(topics.values())[40:50])


def test_the_fingerprint_is_of_the_tokenizer_not_of_the_file(trained, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model_proto(trained.vocabulary).SerializeToString())
    assert load_tokenizer(tmp_path).fingerprint == trained.fingerprint
    trained.save(tmp_path / "json")
    path = tmp_path / "json" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    (tmp_path / "json" / "SHA256SUMS").unlink()  # as the error for an edited file says
    assert load_tokenizer(tmp_path / "json").fingerprint == trained.fingerprint


def test_a_merge_less_is_another_fingerprint(trained):
    vocabulary = trained.vocabulary
    fewer = Vocabulary(vocabulary.pieces, vocabulary.merges[:-1])
    assert fewer.fingerprint != vocabulary.fingerprint


def test_added_tokens_are_never_matched_in_text(trained, tmp_path):
    content = json.loads(trained.vocabulary.to_json(added_tokens=True))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 700, "content": "<pad>"})
    # A converter that also merged "</" and "s>" would make the characters "</s>" end the document.
    content["model"]["merges"].append(["<", "/s>"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 701
    assert tokenizer.encode("<s>a</s><pad>") == trained.encode("<s>a</s><pad>")
    assert tokenizer.decode([700, *tokenizer.encode("x"), 700]) == " x".removeprefix(" ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: setattr(p.trainer_spec, "model_type", 1), "is not a BPE model with byte fallback"),
        (lambda p: setattr(p.trainer_spec, "byte_fallback", False), "is not a BPE model with byte fallback"),
        (lambda p: setattr(p.normalizer_spec, "remove_extra_whitespaces", True), "normalizes text"),
        (lambda p: setattr(p.normalizer_spec, "add_dummy_prefix", False), "does not encode a space as the prefix"),
        (lambda p: setattr(p.pieces[300], "type", 4), "contains 1 user-defined or unused pieces"),
        (lambda p: setattr(p.trainer_spec, "bos_id", -1), "has no <unk>, <s> or </s>"),
        (lambda p: setattr(p.pieces[300], "piece", p.pieces[301].piece), "it contains a duplicate piece"),
        (lambda p: setattr(p.pieces[5], "piece", "no byte"), "missing 1 of the 256 byte pieces"),
    ],
)
def test_a_sentencepiece_model_that_would_give_other_ids_is_refused(trained, tmp_path, change, said):
    proto = model_proto(trained.vocabulary)
    change(proto)
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(PipelineError, match=said):
        load_tokenizer(tmp_path)


def test_an_engine_that_differs_from_the_reference_stops_the_run(trained):
    def other(texts):
        return [ids[:-1] if text == "b" else ids for text, ids in zip(texts, reference(texts), strict=True)]

    reference = trained.encode_batch_reference
    encoder = BulkEncoder(trained.vocabulary, reference=other)
    encoder.verify(["a", "c"])
    with pytest.raises(PipelineError, match=r"gigatoken returned \d+ ids for 'b' that do not match the reference's"):
        encoder.verify(["a", "b", "c"])


def test_an_engine_is_checked_before_its_first_use(trained):
    with pytest.raises(PipelineError, match="do not match the reference's"):
        BulkEncoder(trained.vocabulary, reference=lambda texts: [[5]] * len(texts))


def test_characters_that_spell_a_control_or_byte_piece_stay_text(tmp_path):
    names = ("<", "/", "s", ">", "0", "x", "4", "1", "</", "s>", "<0x", "<0x4", "1>", "▁")
    pieces = (*SPECIAL_PIECES, *BYTE_PIECES, *names)
    proto = model_proto(Vocabulary(pieces, ())).SerializeToString()
    (tmp_path / "tokenizer.model").write_bytes(proto)
    processor = SentencePieceProcessor(model_proto=proto)
    assert_equal_to_sentencepiece(load_tokenizer(tmp_path), processor, ["</s>", "<0x41>", "a</s> <0x41>b"])


def test_renewed_engine_gives_the_same_ids(trained):
    texts = list(topics.values())[:20]
    encoder = BulkEncoder(trained.vocabulary, reference=trained.encode_batch_reference, renew_after=10_000)
    engine = encoder._engine
    rows = [encoder._encode_on_one_core([text.encode()])[0].tolist() for text in texts]
    assert encoder._engine is not engine
    assert rows == trained.encode_batch_reference(texts)


def test_a_worker_process_encodes_with_the_cached_engine(trained, monkeypatch):
    encoder = BulkEncoder(trained.vocabulary, reference=trained.encode_batch_reference)
    texts = list(topics.values())[:5]
    everywhere = [row.tolist() for row in encoder.encode(texts)]
    monkeypatch.setattr("pipeline.tokenization.bulk_encoding.parent_process", lambda: "the main process")
    monkeypatch.setattr(encoder, "_engine", Spy(encoder._engine))
    assert [row.tolist() for row in encoder.encode(texts)] == everywhere == trained.encode_batch_reference(texts)
    assert encoder._engine.used == {"encode"}


class Spy:
    """Forward everything and record the requests."""

    def __init__(self, inner):
        self.inner = inner
        self.used = set()

    def __getattr__(self, name):
        self.used.add(name)
        return getattr(self.inner, name)
