"""Read Hugging Face's `tokenizer.json` as a `Vocabulary`, and check that it has Llama's layout."""

from pathlib import Path
from typing import Any

from pipeline.tokenization.vocabulary import SPACE, SPECIAL_PIECES, Vocabulary, byte_of, checked
from utils.errors import PipelineError


def read_tokenizer_json(path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`.

    Raises:
        PipelineError: not a tokenizer.json, or one of another kind than Llama's.
    """
    import orjson

    try:
        content = orjson.loads(path.read_bytes())
        problem = _problem(content)
        if not problem:
            return checked(_vocabulary(content), origin=path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(f"{path} is not a valid tokenizer.json: {type(error).__name__} {error}") from None
    raise PipelineError(f"{path} {problem}; expected a byte-fallback BPE in SentencePiece's layout, like CodeLlama's")


def _problem(content: dict[str, Any]) -> str:
    model = content["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return f"contains a {model.get('type')} model without byte fallback"
    if not _escapes_spaces(content):
        return "does not encode a space as the prefix '▁'"
    missing = [piece for piece in SPECIAL_PIECES if piece not in _ids(content)]
    if missing:
        return f"has no {' and no '.join(missing)}"
    ids = _ids(content).values()
    if sorted(ids) != list(range(len(ids))):
        return f"has {len(ids)} pieces, but their ids are not 0 to {len(ids) - 1}"
    if _is_ordered_by_id(content):
        return (
            "orders merges by id instead of score, as transformers 5 does when it converts a tokenizer.model; use the "
            "tokenizer.model instead"
        )
    return ""


def _escapes_spaces(content: dict[str, Any]) -> bool:
    """Both ways in which files of Llama's family say it: a normalizer, or a Metaspace that does not split.

    Metaspace leaves the prefix out before a leading space; SentencePiece, whose ids are the measure, does not.
    """
    pre_tokenizer = content.get("pre_tokenizer")
    if pre_tokenizer is None:
        steps = (content.get("normalizer") or {}).get("normalizers", [])
        prefix = {"type": "Prepend", "prepend": SPACE}
        escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        return sorted(steps, key=str) == sorted([prefix, escape], key=str)
    is_metaspace = pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("replacement") == SPACE
    prefixed = pre_tokenizer.get("prepend_scheme") in ("first", "always") and not pre_tokenizer.get("split", True)
    return is_metaspace and prefixed and content.get("normalizer") is None


def _is_ordered_by_id(content: dict[str, Any]) -> bool:
    """Whether Llama's merges were put in a wrong order: its piece 259, "▁▁", has the lowest score of all.

    If it were merged first rather than last, the ids of any text with two consecutive spaces would change, which means
    most Wikipedia articles.
    """
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    is_llama = (vocab.get(SPACE * 2), vocab.get(f"{SPACE}t"), vocab.get("er")) == (259, 260, 261)
    return is_llama and merges[0] in ([SPACE, SPACE], f"{SPACE} {SPACE}")


def _ids(content: dict[str, Any]) -> dict[str, int]:
    """Piece → id: the model's and the added tokens."""
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    return {**content["model"]["vocab"], **added}


def _vocabulary(content: dict[str, Any]) -> Vocabulary:
    ids = _ids(content)
    # An added token that is a piece of the model too (CodeLlama's ▁<PRE>) is text; one that is not, nothing can spell.
    controls = {piece for piece in ids if piece in SPECIAL_PIECES or piece not in content["model"]["vocab"]}
    reserved = controls | {piece for piece in ids if byte_of(piece) is not None}
    pairs = (
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in content["model"]["merges"]
    )
    return Vocabulary(
        pieces=tuple(sorted(ids, key=ids.__getitem__)),
        # A merge that spells a control or byte piece would make the characters "</s>" a special token.
        merges=tuple(pair for pair in pairs if pair[0] + pair[1] not in reserved),
        unk_id=ids["<unk>"],
        bos_id=ids["<s>"],
        eos_id=ids["</s>"],
        controls=frozenset(ids[piece] for piece in controls),
    )
