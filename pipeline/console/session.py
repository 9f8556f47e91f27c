"""The interactive session: menus for choices not made on the command line, then prompt after prompt."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.console.benchmark_menu import BenchmarkStage
from pipeline.console.comparison import run_comparison
from pipeline.console.load_models import ModelRequest, load_writers
from pipeline.console.menus import Quit, choose_checkpoint, choose_checkpoints, choose_of, choose_run, choose_runs
from pipeline.console.single_model import run_single
from pipeline.generation.settings import GenerationSettings

MODES = (
    "One model: text completion, or chat if it was fine-tuned",
    "Several models side by side, also of different runs",
    "Benchmark: scores of one or several models",
)
_ONE_MODEL, _BENCHMARK = 1, 3


def converse(request: ModelRequest, settings: GenerationSettings, benchmark: BenchmarkStage) -> int:
    """Run the session until the user quits; returns the exit code."""
    try:
        if request.checkpoints:
            return _write(request, settings, asks_settings=False)
        mode = choose_of("Text generation", "Mode", MODES)
        checkpoints = _choose_checkpoints(request, one=mode == _ONE_MODEL)
        if mode == _BENCHMARK:
            return benchmark.run(checkpoints)
        return _write(replace(request, checkpoints=checkpoints), settings, asks_settings=True)
    except Quit:
        return 0


def _choose_checkpoints(request: ModelRequest, *, one: bool) -> Sequence[str]:
    folder = request.config.paths.checkpoint_dir
    chosen = [choose_checkpoint(choose_run(folder))] if one else choose_checkpoints(choose_runs(folder))
    return [str(path) for path in chosen]


def _write(request: ModelRequest, settings: GenerationSettings, *, asks_settings: bool) -> int:
    writers = load_writers(request, may_ask=True)
    if len(writers) == 1:
        run_single(writers[0], settings, asks_settings=asks_settings)
    else:
        run_comparison(writers, settings, asks_settings=asks_settings)
    return 0
