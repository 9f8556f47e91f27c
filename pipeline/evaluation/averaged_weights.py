"""The average of a run's last checkpoints, next to the last one.

Averaging the weights along a run often gives a better model than its last checkpoint, as if the learning rate had been
lowered further (Izmailov et al. 2018, arXiv:1803.05407).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.configuration import Config
from pipeline.evaluation.over_training import load_run
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.run_folders import find_checkpoint
from pipeline.generation.loading import LoadedModel
from utils.errors import UsageError


def load_last_and_average(run_name: str, config: Config, *, count: int, device: str) -> list[LoadedModel]:
    """The last checkpoint of a run, and the average of its last `count`; up to a checkpoint if `run_name` is a file.

    Raises:
        UsageError: the run has fewer checkpoints.
    """
    last_step = read_checkpoint(find_checkpoint(run_name, config.paths.checkpoint_dir))["step"]
    models = [loaded for loaded in load_run(run_name, config, device=device) if loaded.content["step"] <= last_step]
    if len(models) < count:
        raise UsageError(
            f"--average {count} needs {count} checkpoints, but {models[-1].path.parent} has {len(models)}; "
            "keep more during training: --set training.keep_last=N"
        )
    return [models[-1], averaged(models[-count:])]


def averaged(models: Sequence[LoadedModel]) -> LoadedModel:
    """A copy of the last model with the mean of the weights of all `models`."""
    last = models[-1]
    model = copy.deepcopy(last.model)
    states = [loaded.model.state_dict() for loaded in models]
    model.load_state_dict({name: _mean([state[name] for state in states]) for name in states[-1]})
    return LoadedModel(f"average of {len(models)}", last.path, model, last.tokenizer, last.content)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean in float64, in the type of `tensors`."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)
