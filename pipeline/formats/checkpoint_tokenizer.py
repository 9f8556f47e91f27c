"""Find the tokenizer that a checkpoint was trained with.

    tokenizer = tokenizer_of(read_checkpoint(path), [config.paths.tokenizer_dir], load_tokenizer, origin=str(path))

The fingerprint must match the checkpoint's. With another tokenizer of the same size, every id would mean something else
and nothing would look wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.tokenization.interface import Tokenizer, TokenizerIdentity, identity_of
from utils.errors import PipelineError

LoadedTokenizer = TypeVar("LoadedTokenizer", bound=Tokenizer)


class TokenizerDescription(TokenizerIdentity):
    """The tokenizer's record in a checkpoint."""

    vocab_size: int


def describe_tokenizer(tokenizer: Tokenizer) -> TokenizerDescription:
    return {**identity_of(tokenizer), "vocab_size": tokenizer.vocab_size}


def tokenizer_of(
    content: Mapping[str, object],
    directories: Sequence[Path],
    load: Callable[[Path], LoadedTokenizer],
    *,
    origin: str,
) -> LoadedTokenizer:
    """The tokenizer of a checkpoint's `content`, from the first of `directories` that has it.

    The folder named in the checkpoint is tried last. A checkpoint without a tokenizer record (from older tools) uses
    the tokenizer in the first folder if its vocabulary has the model's size.

    Raises:
        PipelineError: no folder has it; the message lists what was found where.
    """
    expected = _section(content, "tokenizer")
    config = _section(content, "config")
    stored = _section(config, "paths").get("tokenizer_dir")
    candidates = [*directories, Path(str(stored))] if stored else list(directories)
    found = []
    for directory in dict.fromkeys(candidates):
        try:
            tokenizer = load(directory)
        except PipelineError as error:
            found.append((directory, str(error)))
            continue
        if _fits(tokenizer, expected, _section(config, "model")):
            return tokenizer
        found.append((directory, f"{directory} has a different tokenizer ({_short(tokenizer.fingerprint)})"))
    if len(found) == 1:
        problem = found[0][1]
    else:
        problem = "; ".join(f"{directory}: {reason.split(';')[0]}" for directory, reason in found)
    name = f"{expected.get('name', 'unknown')} ({_short(str(expected.get('fingerprint', '')))})"
    raise PipelineError(
        f"{origin} was trained with tokenizer {name}, which was not found: {problem}; pass its folder with "
        "--tokenizer DIR"
    )


def _fits(tokenizer: Tokenizer, expected: Mapping[str, object], model: Mapping[str, object]) -> bool:
    if expected.get("fingerprint"):
        return tokenizer.fingerprint == expected["fingerprint"]
    return tokenizer.vocab_size == model.get("vocab_size", 0)


def _section(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    """A part of a checkpoint, empty if the checkpoint lacks it."""
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _short(fingerprint: str) -> str:
    return fingerprint[:12] or "no fingerprint"
