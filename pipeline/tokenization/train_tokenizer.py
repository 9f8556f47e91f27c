"""Train a tokenizer on cleaned text and save it."""

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.formats.cleaned_text import check_cleaned_text
from pipeline.tokenization.tokenizer_folder import refuse_unread_file
from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer
from utils.files import refuse_overwriting
from utils.terminal import format_seconds, say


def train_tokenizer(files: Sequence[Path], vocab_size: int, directory: Path) -> WikipediaTokenizer:
    """Learn `vocab_size` pieces from `files`, one article a line, save them in `directory` and print how long it took.

    Raises:
        PipelineError: a file is damaged, would be overwritten, or holds too few different pieces.
    """
    output = directory / "tokenizer.json"
    refuse_unread_file(output)
    refuse_overwriting(files, [output])
    check_cleaned_text(files)
    started = time.perf_counter()
    tokenizer = WikipediaTokenizer.train(files, vocab_size, directory)
    path = tokenizer.save()
    say(f"trained on {len(files)} files in {format_seconds(time.perf_counter() - started)}, saved as {path}")
    return tokenizer
