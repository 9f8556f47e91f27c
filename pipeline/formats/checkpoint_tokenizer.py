"""Which tokenizer a checkpoint was trained with, and finding it again.

    tokenizer = tokenizer_of(read_checkpoint(path), [config.paths.tokenizer_dir], load_tokenizer, origin=str(path))

A tokenizer is taken only when its fingerprint is the checkpoint's: another one of the same size would turn every id
into another word, and nothing would look wrong but the text.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import PipelineError


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What a checkpoint records of its tokenizer."""
    return {name: getattr(tokenizer, name) for name in ("name", "fingerprint", "bos_id", "eos_id", "vocab_size")}


def tokenizer_of(
    content: Mapping[str, Any],
    directories: Sequence[Path],
    load: Callable[[Path], Any],
    *,
    origin: str,
) -> Any:
    """The tokenizer of a checkpoint's `content`, from the first of `directories` that has it.

    The folder that the checkpoint itself names is tried last. A checkpoint that says nothing of its tokenizer (older
    tools wrote such) takes the first folder's, if the vocabulary has the model's size.

    Raises:
        PipelineError: no folder holds it; names what was found where.
    """
    wanted = content.get("tokenizer") or {}
    stored = (content.get("config") or {}).get("paths", {}).get("tokenizer_dir")
    found = []
    for directory in dict.fromkeys([*map(Path, directories), *([Path(stored)] if stored else [])]):
        try:
            tokenizer = load(directory)
        except PipelineError as error:
            found.append((directory, str(error)))
            continue
        if _fits(tokenizer, wanted, content):
            return tokenizer
        found.append((directory, f"{directory} has another tokenizer ({_short(tokenizer.fingerprint)})"))
    if len(found) == 1:
        problem = found[0][1]
    else:
        problem = "; ".join(f"{directory}: {reason.split(';')[0]}" for directory, reason in found)
    name = f"{wanted.get('name', 'unknown')} ({_short(wanted.get('fingerprint', ''))})"
    raise PipelineError(
        f"{origin} was trained with the tokenizer {name}; {problem}; name its folder with --tokenizer DIR"
    )


def _fits(tokenizer: Any, wanted: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    if wanted.get("fingerprint"):
        return tokenizer.fingerprint == wanted["fingerprint"]
    return tokenizer.vocab_size == (content.get("config") or {}).get("model", {}).get("vocab_size")


def _short(fingerprint: str) -> str:
    return fingerprint[:12] or "no fingerprint"
