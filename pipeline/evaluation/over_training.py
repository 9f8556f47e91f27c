"""Load every checkpoint of a run, for curves over training."""

from pipeline.configuration import Config
from pipeline.formats.run_folders import LATEST_NAME, find_checkpoint
from pipeline.generation.loading import LoadedModel, load_all
from utils.errors import UsageError


def load_run(run_name: str, config: Config, *, device: str) -> list[LoadedModel]:
    """Every checkpoint of a run, in the order of their steps.

    Raises:
        UsageError: there is only one.
    """
    folder = find_checkpoint(run_name, config.paths.checkpoint_dir).parent
    paths = [path for kind in ("step_*.pt", "epoch_*.pt") for path in sorted(folder.glob(f"checkpoint_{kind}"))]
    paths += folder.glob(LATEST_NAME)
    models = load_all([f"{path.stem.removeprefix('checkpoint_')}={path}" for path in paths], config, device=device)
    by_step = {loaded.content["step"]: loaded for loaded in models}  # latest often repeats the newest step
    if len(by_step) < 2:
        raise UsageError(f"{folder} has {len(by_step)} checkpoint(s), but --over-training needs at least two")
    return [by_step[step] for step in sorted(by_step)]
