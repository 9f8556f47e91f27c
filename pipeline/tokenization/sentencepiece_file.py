"""Read SentencePiece's `tokenizer.model` as a `Vocabulary`, so that every engine gives SentencePiece's own ids.

SentencePiece joins the neighbours whose joined piece has the highest score. The order of the merges is therefore that
of the scores; by piece id, as transformers 5 orders them, every text with two spaces in a row gets other ids.
"""

from pathlib import Path
from typing import Any

from pipeline.tokenization.vocabulary import Vocabulary, checked, merges_by_priority
from utils.errors import PipelineError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


def read_sentencepiece(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.model`.

    Raises:
        PipelineError: not a SentencePiece model, or one of another kind than Llama's.
    """
    model = _parse(path)
    expected = "expected a BPE model with byte fallback, like CodeLlama's, or a tokenizer.json"
    problem = _problem(model)
    if problem:
        raise PipelineError(f"{path} {problem}; {expected}")
    pieces = tuple(piece.piece for piece in model.pieces)
    controls = frozenset(i for i, piece in enumerate(model.pieces) if piece.type in (_UNKNOWN, _CONTROL))
    byte_ids = frozenset(i for i, piece in enumerate(model.pieces) if piece.type == _BYTE)
    vocabulary = Vocabulary(
        pieces=pieces,
        merges=merges_by_priority(pieces, [piece.score for piece in model.pieces], reserved=controls | byte_ids),
        unk_id=model.trainer_spec.unk_id,
        bos_id=model.trainer_spec.bos_id,
        eos_id=model.trainer_spec.eos_id,
        controls=controls,
    )
    return checked(vocabulary, origin=path)


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made at run time

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise PipelineError(
            f"{path} is not a SentencePiece model; replace it with CodeLlama's tokenizer.model"
        ) from None
    if not model.pieces:
        raise PipelineError(f"{path} contains no pieces; replace it with CodeLlama's tokenizer.model")
    return model


def _problem(model: Any) -> str:
    """What SentencePiece would do with a text that `Vocabulary` does not, or an empty string."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _BPE or not trainer.byte_fallback:
        return "is not a BPE model with byte fallback"
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        return (
            f"normalizes text (rule {normalizer.name or 'custom'!r}), so decoding would not restore the original text"
        )
    if not (normalizer.add_dummy_prefix and normalizer.escape_whitespaces) or trainer.treat_whitespace_as_suffix:
        return "does not encode a space as the prefix '▁'"
    others = sum(piece.type in (_USER_DEFINED, _UNUSED) for piece in model.pieces)
    if others:
        return f"contains {others} user-defined or unused pieces"
    size = len(model.pieces)
    if not all(0 <= token < size for token in (trainer.unk_id, trainer.bos_id, trainer.eos_id)):
        return "has no <unk>, <s> or </s>"
    return ""
