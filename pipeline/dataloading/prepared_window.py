"""The window that training uses: the one that the dataset was prepared with, unless the user sets another."""

from dataclasses import replace

from pipeline.configuration import Config
from pipeline.formats.token_dataset import METADATA_NAME, PreparedWindows, prepared_windows
from pipeline.preparation.config import DatasetConfig
from utils.errors import PipelineError


def with_prepared_window(config: Config, *, test: bool, source: str | None = None) -> Config:
    """`config` with its dataset's window and overlap in place of those that the user did not set.

    A dataset that is not there changes nothing: whoever opens it says how to make it.

    Raises:
        PipelineError: the window is longer than the model's context, or the dataset cannot have the one asked for.
    """
    directory = config.dataset.directory(test=test, source=source)
    if not (directory / METADATA_NAME).exists():
        return config
    prepared = prepared_windows(directory)
    asked = config.dataset.window
    if prepared.is_fixed and "dataset.window" in config.explicit and asked != prepared.window:
        raise PipelineError(
            f"token dataset {directory} holds rows of {prepared.window} tokens, so dataset.window {asked} cannot take "
            f"effect; leave it out, or --set dataset.window={prepared.window}"
        )
    dataset = config.dataset
    if prepared.window and "dataset.window" not in config.explicit:
        dataset = replace(dataset, window=prepared.window)
    if prepared.window and prepared.stride and "dataset.overlap" not in config.explicit:
        dataset = replace(dataset, overlap=_overlap(prepared))
    config = replace(config, dataset=dataset)
    problem = config.context_problem()
    if problem:
        raise PipelineError(f"token dataset {directory}: {problem}")
    return config


def _overlap(prepared: PreparedWindows) -> float:
    """The share of a window that the next one repeats, as the metadata words it if that gives its stride."""
    if prepared.overlap is not None:
        declared = DatasetConfig(window=prepared.window, overlap=prepared.overlap)
        if declared.stride == prepared.stride:
            return prepared.overlap
    return max(0.0, 1 - prepared.stride / prepared.window)
