"""A tokenizer's folder: which of its files counts, and its vocabulary.

If both files are there, SentencePiece's own counts.
"""

from pathlib import Path

from pipeline.quickstart_hint import or_quickstart
from pipeline.tokenization.vocabulary import Vocabulary
from utils.checksums import check_sums
from utils.errors import PipelineError

FILE_NAMES = ("tokenizer.model", "tokenizer.json")


def tokenizer_file(directory: Path) -> Path | None:
    """The file in `directory` that counts, or None if it holds no tokenizer."""
    return next((directory / name for name in FILE_NAMES if (directory / name).is_file()), None)


def read_vocabulary(directory: Path) -> Vocabulary:
    """The vocabulary of the tokenizer in `directory`.

    Raises:
        PipelineError: there is no tokenizer, it is damaged, or it is of another kind.
    """
    path = tokenizer_file(directory)
    if directory.is_file():
        raise PipelineError(f"{directory} is a file; pass the folder that contains it, {directory.parent}")
    if path is None:
        raise PipelineError(f"{directory} contains no tokenizer; {where_to_get_one(directory)}")
    check_sums(directory, remedy="fetch or train it again")
    if path.suffix == ".model":
        from pipeline.tokenization.sentencepiece_file import read_sentencepiece

        return read_sentencepiece(path)
    from pipeline.tokenization.tokenizer_json import read_tokenizer_json

    return read_tokenizer_json(path)


def refuse_unread_file(path: Path) -> None:
    """Refuse to write a tokenizer.json next to a tokenizer.model, which would be read instead of it."""
    if tokenizer_file(path.parent) not in (None, path):
        raise PipelineError(
            f"{FILE_NAMES[0]} in {path.parent} would be loaded instead of the saved file; choose a different folder"
        )


def where_to_get_one(directory: Path) -> str:
    """What to do about a `directory` without a tokenizer."""
    return (
        f"put its tokenizer.json or tokenizer.model in {directory}, pass a folder that contains one with --load DIR, "
        "or train your own: python3 tokenizer.py --train FILE… --vocab-size 8000 --output "
        f"DIR{or_quickstart(directory)}"
    )
