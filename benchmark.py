"""Scores checkpoints as EleutherAI's lm-evaluation-harness does, with standard errors, and compares them.

    python3 benchmark.py --checkpoint latest                               # --standard: 100 lines, 50 and 20 items
    python3 benchmark.py --checkpoint old=RUN --checkpoint new=latest --full
    python3 benchmark.py --over-training latest --quick                    # every checkpoint of a run, as curves
    python3 benchmark.py --checkpoint latest --offline-samples             # no data needed; not comparable

Writes benchmark_<timestamp>.json, .txt, .png and .html to paths.benchmark_dir. docs/benchmarks.md says what is scored.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.evaluation.model_benchmark import ModelBenchmark
from pipeline.evaluation.presets import PRESETS, TASK_NAMES, preset_summary
from pipeline.evaluation.text_report import format_benchmark_results
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.terminal import visible

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.generation.loading import LoadedModel

__all__ = ["ModelBenchmark", "format_benchmark_results"]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a file, a run's folder, or latest (the default); repeatable",
    )
    parser.add_argument("--over-training", metavar="RUN", help="every checkpoint of a run's folder, or of latest")
    presets = parser.add_mutually_exclusive_group()
    for name in PRESETS:
        presets.add_argument(f"--{name}", dest="preset", action="store_const", const=name, help=preset_summary(name))
    parser.set_defaults(preset="standard")
    parser.add_argument("--tasks", default=",".join(TASK_NAMES), metavar="A,B", help=f"some of {','.join(TASK_NAMES)}")
    parser.add_argument(
        "--data-dir", dest="benchmark.data_dir", metavar="DIR", help="folder of the sets (benchmark.data_dir)"
    )
    parser.add_argument("--offline-samples", action="store_true", help="the project's own small sets, not comparable")
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="ask a tuned model these and count right answers"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu", "mps"))
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder of the checkpoints' tokenizer"
    )
    args = parser.parse_args(argv)
    args.tasks = args.tasks.split(",")
    for task in args.tasks:
        if task not in TASK_NAMES:
            hint = did_you_mean(task, TASK_NAMES)
            parser.error(f"task {task!r} is unknown{hint}; expected some of {', '.join(TASK_NAMES)}")
    if args.over_training and args.checkpoint:
        parser.error("--over-training takes the checkpoints of its run; leave --checkpoint out")
    if args.questions and args.over_training:
        parser.error("--questions asks tuned checkpoints; name them with --checkpoint instead of --over-training")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    from pipeline.evaluation.report_files import ReportFiles

    args = parse_args(argv)
    config = load_config_from(args)
    if args.questions:
        return answer_questions(args, config)
    # The sets first: a missing one is reported before a model is loaded.
    benchmark = ModelBenchmark(config, preset=args.preset, tasks=args.tasks, offline_samples=args.offline_samples)
    models = _load_models(args, config)
    print(f"device: {models[0].model.device}", file=sys.stderr)
    files = ReportFiles(config.paths.benchmark_dir)
    results = benchmark.run_full_benchmark(
        {loaded.name: (loaded.model, loaded.tokenizer) for loaded in models},
        contents={loaded.name: loaded.content for loaded in models},
        files=files,
        over_training=bool(args.over_training),
    )
    print(format_benchmark_results(results, colour=True))
    print(f"written: {', '.join(map(str, files.written))}")
    return EXIT_OK


def answer_questions(args: argparse.Namespace, config: "Config") -> int:
    """Asks every checkpoint the questions of a file; prints the counts, and writes them with the replies as JSON."""
    from pipeline.evaluation.questions import ask, format_score, read_questions, score, score_values
    from utils.files import write_json

    questions = read_questions(args.questions)  # first: a mistake in the file is reported before a model is loaded
    results = {}
    for loaded in _load_models(args, config):
        if not loaded.is_chat:
            raise PipelineError(f"{loaded.name} is not tuned on conversations; expected one: python3 main.py sft")
        result = score(questions, ask(loaded.model, loaded.tokenizer, questions.asked))
        results[loaded.name] = score_values(result)
        print(visible(f"{loaded.name}\n{format_score(result)}"))
    path = config.paths.benchmark_dir / f"questions_{time.strftime('%Y_%m_%d_%H_%M_%S')}.json"
    write_json(path, results)
    print(f"written: {path}")
    return EXIT_OK


def _load_models(args: argparse.Namespace, config: "Config") -> "list[LoadedModel]":
    from pipeline.generation.loading import load_all

    if args.over_training:
        return _load_run(args.over_training, config, device=args.device)
    return load_all(args.checkpoint or ["latest"], config, device=args.device)


def _load_run(run_name: str, config: "Config", *, device: str) -> "list[LoadedModel]":
    """Every checkpoint of a run, in the order of their steps."""
    from pipeline.formats.run_folders import find_checkpoint
    from pipeline.generation.loading import load_all

    folder = find_checkpoint(run_name, config.paths.checkpoint_dir).parent
    kept = [*folder.glob("checkpoint_step_*.pt"), *folder.glob("checkpoint_epoch_*.pt")]
    paths = [*sorted(kept, key=_number), *folder.glob("checkpoint_latest.pt")]
    models = load_all([f"{path.stem.removeprefix('checkpoint_')}={path}" for path in paths], config, device=device)
    by_step = {loaded.content["step"]: loaded for loaded in models}  # latest often repeats the newest step
    if len(by_step) < 2:
        raise UsageError(f"{folder} has {len(by_step)} checkpoint(s); a curve over training needs at least two")
    return list(by_step.values())


def _number(path: Path) -> int:
    """checkpoint_step_120.pt → 120."""
    return int(path.stem.rsplit("_", 1)[1])


if __name__ == "__main__":
    run(main)
