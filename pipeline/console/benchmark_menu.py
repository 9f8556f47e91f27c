"""Start the benchmark stage from the menus."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.configuration import CHECKOUT
from pipeline.console.menus import choose_of
from utils.processes import run_process

SOURCES = (
    "WikiText, LAMBADA, HellaSwag (benchmark.data_dir, or the hub)",
    "built-in samples, no download",
)
_OWN_SAMPLES = 2


@dataclass(frozen=True)
class BenchmarkStage:
    """`sizes` maps the presets of benchmark.py to their summaries; `options` are passed on unchanged."""

    sizes: Mapping[str, str]
    options: Sequence[str]

    def run(self, checkpoints: Sequence[str]) -> int:
        """Ask for the size and the data, score `checkpoints`, and return the stage's exit code."""
        size = choose_of("Items", "Size", [f"{name}: {summary}" for name, summary in self.sizes.items()])
        arguments = [f"--{list(self.sizes)[size - 1]}", *self.options]
        if choose_of("Data", "Data", SOURCES) == _OWN_SAMPLES:
            arguments.append("--offline-samples")
        for checkpoint in checkpoints:
            arguments += ["--checkpoint", checkpoint]
        # main.py finds the Python that has the benchmark's packages.
        return run_process([sys.executable, str(CHECKOUT / "main.py"), "benchmark", *arguments]).code
