"""Fetch a tokenizer from the Hugging Face hub into a folder, once."""

from pathlib import Path

from pipeline.tokenization.tokenizer_folder import read_vocabulary, where_to_get_one
from utils.checksums import write_sums
from utils.errors import PipelineError
from utils.files import whole_file


def fetch_tokenizer(name: str, directory: Path) -> None:
    """Save the tokenizer of the hub's repository `name` in `directory`.

    Raises:
        PipelineError: the hub can't be reached, or has no such tokenizer; names three alternatives.
    """
    from utils.hub_connection import HubError, download

    reason: object = "it has neither a tokenizer.json nor a tokenizer.model"
    try:
        for file in ("tokenizer.json", "tokenizer.model"):
            content = download(name, file)
            if content is not None:
                with whole_file(directory / file) as target:
                    target.write(content)
                _check_fetched(directory / file)
                write_sums(directory, [file])
                return
    except HubError as error:
        reason = error
    problem = f"tokenizer {name} could not be fetched from the Hugging Face hub ({reason})"
    raise PipelineError(f"{problem}; {where_to_get_one(directory)}")


def _check_fetched(path: Path) -> None:
    """Keep a fetched file only if it is a tokenizer, not some proxy's page."""
    try:
        read_vocabulary(path.parent)
    except PipelineError:
        path.unlink()
        raise
