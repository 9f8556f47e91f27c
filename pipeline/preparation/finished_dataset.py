"""Check whether a finished dataset matches the request and is intact, and update its windows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.formats.token_dataset import METADATA_NAME, TokenDataset, write_metadata
from pipeline.preparation.config import DatasetConfig
from pipeline.preparation.dataset_writer import with_windows
from pipeline.preparation.inputs import InputFile, changed_files, write_times
from pipeline.preparation.recipe_differences import refuse_differences, without_windows
from utils.errors import PipelineError
from utils.terminal import say


def finished_metadata(
    directory: Path, identity: Mapping[str, Any], files: Sequence[InputFile], dataset: DatasetConfig
) -> dict[str, Any] | None:
    """The metadata of the finished dataset in `directory`, with the windows in `dataset`, or None if there is none.

    Raises:
        PipelineError: it was made from something else, its input changed, or a token file is missing or truncated.
    """
    if not (directory / METADATA_NAME).exists():
        return None
    found = TokenDataset.open(directory, window=dataset.window, stride=dataset.stride)
    if found.is_foreign:
        raise PipelineError(
            f"{directory} contains a token dataset from another tool; choose a different folder in the config, "
            "or replace it with --restart"
        )
    metadata = found.metadata
    inputs = metadata.get("inputs", [])
    made = {
        "config": without_windows(metadata.get("config", {})),
        "tokenizer": {"fingerprint": metadata.get("tokenizer", {}).get("fingerprint")},
        "inputs": {entry.get("name"): entry.get("bytes") for entry in inputs},
    }
    refuse_differences(made, identity, f"{directory} was prepared")
    changed = changed_files(directory, files, inputs)
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise PipelineError(
            f"{changed[0]}{more} has changed since {directory} was prepared; prepare it again with --restart"
        )
    write_times(directory, files)  # so that a copy has to be compared by content only once
    return _with_asked_windows(directory, metadata, dataset)


def _with_asked_windows(directory: Path, metadata: dict[str, Any], dataset: DatasetConfig) -> dict[str, Any]:
    windows = {"window": dataset.window, "stride": dataset.stride}
    if windows.items() <= metadata.items():
        recorded = any("content" in entry for entry in metadata.get("inputs", []))
        same = "the same input" if recorded else "input with the same names and sizes; its content was not recorded"
        say(f"{directory.name} is already complete, prepared from {same}; use --restart to prepare it again")
        return metadata
    changed = with_windows(metadata, **windows, overlap=dataset.overlap)
    write_metadata(directory, changed)
    say(
        f"{directory.name}: windows of {dataset.window}, one every {dataset.stride} tokens, instead of "
        f"{metadata['window']} and {metadata['stride']}; the tokens are unchanged"
    )
    return changed
