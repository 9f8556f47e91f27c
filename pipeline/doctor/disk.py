"""Check the free space for the output of the configured run."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.configuration import Config
from pipeline.doctor.findings import Finding, ok, problem
from pipeline.modeling.memory_estimate import parameters_by_part
from utils.files import free_disk
from utils.terminal import format_bytes

METADATA_NAME = "metadata.json"
BYTES_PER_TOKEN_ON_DISK = 2
TEXT_BYTES_PER_TOKEN = 4  # about, with CodeLlama's tokenizer and English text


@dataclass(frozen=True)
class Need:
    """The space needed by an output, and its folder."""

    what: str
    folder: Path
    size: int


def check_disk(config: Config) -> list[Finding]:
    return [_finding(needs) for needs in _by_disk([*checkpoint_needs(config), *dataset_needs(config)]).values()]


def checkpoint_needs(config: Config) -> list[Need]:
    """The checkpoints of a run: weights and AdamW's two moments in float32."""
    size = 12 * sum(parameters_by_part(config.model).values())
    count = 2 + config.training.keep_last  # checkpoint_latest.pt and checkpoint_best.pt
    return [Need(f"{count} checkpoints", config.paths.checkpoint_dir, count * size)]


def dataset_needs(config: Config) -> list[Need]:
    """The token dataset, if it does not exist yet and its size can be estimated."""
    directory = config.dataset.directory(test=False)
    if is_complete(directory):
        return []
    tokens = _expected_tokens(config)
    return [Need("the token dataset", directory, BYTES_PER_TOKEN_ON_DISK * tokens)] if tokens else []


def is_complete(directory: Path) -> bool:
    """Whether the preparation of a dataset or of conversations has finished; metadata.json is written last."""
    return (directory / METADATA_NAME).exists()


def _expected_tokens(config: Config) -> int:
    if config.dataset.source == "fineweb":
        billions = re.search(r"(\d+)BT", config.fineweb.subset)
        return int(billions[1]) * 10**9 if billions else 0
    return sum(path.stat().st_size for path in cleaned_files(config)) // TEXT_BYTES_PER_TOKEN


def cleaned_files(config: Config) -> list[Path]:
    return sorted(config.paths.cleaned_dir.glob("cleaned_*.txt"))


def _by_disk(needs: Iterable[Need]) -> dict[int, list[Need]]:
    disks: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        existing = next(path for path in (need.folder, *need.folder.absolute().parents) if path.exists())
        disks[existing.stat().st_dev].append(need)
    return disks


def _finding(needs: list[Need]) -> Finding:
    """Check all `needs` on one disk."""
    free = free_disk(needs[0].folder)
    needed = sum(need.size for need in needs)
    wanted = " and ".join(f"{need.what} about {format_bytes(need.size)}" for need in needs)
    found = f"{format_bytes(free)} free; {wanted}"
    if free < needed * 1.05:
        key = "paths.data_dir" if len(needs) > 1 else "paths.checkpoint_dir"
        return problem("disk", found, f"free some space, or use a folder on another disk: --set {key}=DIR")
    return ok("disk", found)
