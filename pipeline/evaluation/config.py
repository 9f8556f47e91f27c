"""The `benchmark` section of the configuration: evaluation."""

from dataclasses import dataclass
from pathlib import Path

from utils.options import option


@dataclass(frozen=True)
class BenchmarkConfig:
    """Evaluation."""

    data_dir: Path | None = option(
        None, "folder with `wikitext/`, `lambada/`, `hellaswag/`; null: download from the hub"
    )
