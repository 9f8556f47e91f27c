"""Choose the training window: the dataset's own, unless the user sets another."""

from dataclasses import replace

from pipeline.configuration import Config
from pipeline.formats.token_dataset import METADATA_NAME, prepared_windows
from pipeline.preparation.config import DatasetConfig
from utils.errors import PipelineError


def with_prepared_window(config: Config, *, test: bool, source: str | None = None) -> Config:
    """`config` with the dataset's own window and overlap, except for what the user set.

    If the dataset does not exist, nothing changes; opening it later explains how to create it.

    Raises:
        PipelineError: the window is longer than the model's context, or the dataset cannot have the configured one.
    """
    directory = config.dataset.directory(test=test, source=source)
    if not (directory / METADATA_NAME).exists():
        return config
    prepared = prepared_windows(directory)
    asked = config.dataset.window
    if prepared.is_fixed and "dataset.window" in config.explicit and asked != prepared.window:
        raise PipelineError(
            f"token dataset {directory} has rows of {prepared.window} tokens, so dataset.window cannot be "
            f"{asked}; remove the setting, or pass --set dataset.window={prepared.window}"
        )
    dataset = config.dataset
    if prepared.window and "dataset.window" not in config.explicit:
        dataset = replace(dataset, window=prepared.window)
    if prepared.window and prepared.stride and "dataset.overlap" not in config.explicit:
        dataset = replace(dataset, overlap=_overlap(prepared.window, prepared.stride, prepared.overlap))
    config = replace(config, dataset=dataset)
    problem = config.context_problem()
    if problem:
        raise PipelineError(f"token dataset {directory}: {problem}")
    return config


def _overlap(window: int, stride: int, declared: float | None) -> float:
    """The overlap of consecutive windows: `declared` if it gives this stride, else computed from it."""
    if declared is not None and DatasetConfig(window=window, overlap=declared).stride == stride:
        return declared
    return max(0.0, 1 - stride / window)
