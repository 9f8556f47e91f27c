"""A hint for errors: the default folder is empty, but the quickstart has what is missing.

raise PipelineError(f"no checkpoint in {folder}; train a model first: python3 main.py train{or_quickstart(folder)}")
"""

from pathlib import Path

from pipeline.configuration import CHECKOUT, Config, load_config
from utils.errors import PipelineError
from utils.terminal import short_path

QUICKSTART_CONFIG = CHECKOUT / "configs" / "quickstart.json"
# Files that show that a folder in `paths` has been filled.
_CONTENT = {
    "raw_dir": "*.jsonl",
    "cleaned_dir": "cleaned_*.txt",
    "tokenizer_dir": "tokenizer.*",
    "checkpoint_dir": "**/*.pt",
    "post_training_dir": "metadata.json",
}
_DATASET_CONTENT = "metadata.json"


def or_quickstart(missing: Path) -> str:
    """``"; or use the quickstart's: --config configs/quickstart.json"``, or ``""`` if that does not help.

    It helps if `missing`, the folder that lacks something, is one of those in config.json, and the corresponding folder
    of the quickstart has it.
    """
    try:
        ours, theirs = load_config(), load_config(QUICKSTART_CONFIG)
    except PipelineError:  # the original error matters more than a broken quickstart configuration
        return ""
    if not _is_filled(missing, ours, theirs):
        return ""
    return f"; or use the quickstart's: --config {short_path(QUICKSTART_CONFIG)}"


def _is_filled(missing: Path, ours: Config, theirs: Config) -> bool:
    for key, pattern in _CONTENT.items():
        if getattr(ours.paths, key) == missing:
            return any(getattr(theirs.paths, key).glob(pattern))
    is_dataset = missing in vars(ours.dataset).values()
    return is_dataset and any(theirs.dataset.directory(test=False).glob(_DATASET_CONTENT))
