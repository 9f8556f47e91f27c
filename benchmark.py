"""Scores checkpoints as EleutherAI's lm-evaluation-harness does, with standard errors, and compares them.

    python3 benchmark.py --checkpoint latest                               # --standard: 100 lines, 50 and 20 items
    python3 benchmark.py --checkpoint old=RUN --checkpoint new=latest --full
    python3 benchmark.py --over-training latest --quick                    # every checkpoint of a run, as curves
    python3 benchmark.py --checkpoint latest --offline-samples             # no data needed; not comparable
    python3 benchmark.py --checkpoint latest --questions questions.jsonl   # a tuned model, your own questions

Writes benchmark_<timestamp>.json, .txt, .png and .html to paths.benchmark_dir. docs/benchmarks.md says what is scored.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.configuration import load_config_from
from pipeline.evaluation.items import PRESETS, SETS, load_sets
from pipeline.evaluation.text_report import format_benchmark_results
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.terminal import visible

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.evaluation.items import BenchmarkSet
    from pipeline.evaluation.report_files import ReportFiles
    from pipeline.generation.loading import LoadedModel

__all__ = ["ModelBenchmark", "format_benchmark_results"]

TASKS = (*SETS, "completion")
RULES = "Scored as lm-evaluation-harness 0.4.13 does with add_bos_token=True."


class ModelBenchmark:
    """Scores models on the same items and writes the results to ``paths.benchmark_dir``.

    results = ModelBenchmark().run_full_benchmark({"a": (model, tokenizer), "b": (model2, tokenizer2)})
    print(format_benchmark_results(results))

    Args:
        config: None: config.json; its benchmark.data_dir is where the sets are, null fetches them.
        preset: ``quick``, ``standard``, ``comprehensive`` or ``full``.
        tasks: some of ``wikitext``, ``lambada``, ``hellaswag``, ``completion``.
    """

    def __init__(
        self,
        config: "Config | None" = None,
        *,
        preset: str = "standard",
        tasks: Sequence[str] = TASKS,
        offline_samples: bool = False,
    ) -> None:
        if config is None:
            from pipeline.configuration import load_config

            config = load_config()
        if preset not in PRESETS:
            raise PipelineError(
                f"preset {preset!r} is unknown{did_you_mean(preset, PRESETS)}; one of {', '.join(PRESETS)}"
            )
        if "completion" in tasks:
            import rouge_score  # noqa: F401, a missing package is reported before anything is scored
            import sacrebleu  # noqa: F401
        self.preset, self.tasks, self.offline_samples = preset, tuple(tasks), offline_samples
        self.directory = config.paths.benchmark_dir
        names = [name for name in SETS if name in tasks or (name == "wikitext" and "completion" in tasks)]
        loaded = load_sets(names, data_dir=config.benchmark.data_dir, preset=preset, offline_samples=offline_samples)
        self.sets: dict[str, BenchmarkSet] = {data.name: data for data in loaded}

    def run_full_benchmark(
        self,
        models: Mapping[str, tuple[Any, Any]],
        *,
        contents: Mapping[str, Mapping[str, Any]] | None = None,
        files: "ReportFiles | None" = None,
        over_training: bool = False,
    ) -> dict[str, Any]:
        """The results of every model as plain values, which are also written to files.

        Args:
            models: {name: (model, tokenizer)}.
            contents: their checkpoints' contents without tensors, which say what they were trained on.
            files: where the reports go; None: new files in ``paths.benchmark_dir``.
            over_training: the models are checkpoints of one run; the chart shows curves.

        Raises:
            PipelineError: no model, or a model and a tokenizer that do not fit.
        """
        from pipeline.evaluation.report_files import ReportFiles

        if not models:
            raise PipelineError("no model to benchmark; expected {name: (model, tokenizer)}")
        for name, (model, tokenizer) in models.items():
            _check_fit(name, model, tokenizer)
        files, contents = files or ReportFiles(self.directory), contents or {}
        scored = {name: self._score(name, *pair) for name, pair in models.items()}
        results = self._results(scored, contents, device=str(next(iter(models.values()))[0].device))
        files.save(results)
        for name, pair in models.items():
            self._add_facts(name, *pair, contents.get(name, {}), results["models"][name])
        files.save(results)
        files.add_pictures(results, over_training=over_training)
        return results

    def _results(
        self, scored: Mapping[str, Any], contents: Mapping[str, Mapping[str, Any]], *, device: str
    ) -> dict[str, Any]:
        """The scores; what `_add_facts` finds out is left open."""
        from pipeline.evaluation.contamination import NOT_CHECKED
        from pipeline.evaluation.results import FORMAT_VERSION, comparisons, model_result, ranking

        compared = comparisons(scored)
        open_facts = {"contamination": dict.fromkeys(self.sets, NOT_CHECKED), "speed": None, "sample": None}
        return {
            "format_version": FORMAT_VERSION,
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
            "settings": {"preset": self.preset, "device": device, "rules": RULES},
            "sets": self._descriptions(next(iter(scored.values()))),
            "models": {
                name: {**model_result(tasks), "step": contents.get(name, {}).get("step"), **open_facts}
                for name, tasks in scored.items()
            },
            "comparisons": compared,
            "ranking": ranking(compared),
        }

    def _add_facts(self, name: str, model: Any, tokenizer: Any, content: Mapping[str, Any], result: dict) -> None:
        """Whatever can be found out about a model besides its scores; a part that fails stays open."""
        from pipeline.evaluation.contamination import contamination
        from pipeline.evaluation.report_files import attempt
        from pipeline.evaluation.speed import measure_speed, write_sample

        parts = {
            "contamination": lambda: {data.name: contamination(content, data) for data in self.sets.values()},
            "speed": lambda: measure_speed(model, tokenizer),
            "sample": lambda: write_sample(model, tokenizer),
        }
        for part, work in parts.items():
            result[part] = attempt(f"{name}: {part}", work) or result[part]

    def _score(self, name: str, model: Any, tokenizer: Any) -> dict[str, Any]:
        from pipeline.evaluation.completion import MAX_PASSAGES, passages_of, score_completion
        from pipeline.evaluation.scoring import Scorer
        from pipeline.evaluation.tasks import TASKS as SCORED

        scorer, results = Scorer(model), {}
        for task in self.tasks:
            print(visible(f"{name}: {task}"), file=sys.stderr, flush=True)
            if task in SCORED:
                results[task] = SCORED[task](scorer, tokenizer, self.sets[task])
                continue
            passages = passages_of(self.sets["wikitext"].items, PRESETS[self.preset].get("lambada", MAX_PASSAGES))
            if passages:
                results[task] = score_completion(model, tokenizer, passages)
            else:
                left_out = f"{name}: {task} is left out: no WikiText paragraph is long enough"
                print(visible(left_out), file=sys.stderr)
        return results

    def _descriptions(self, scored: Mapping[str, Any]) -> dict[str, Any]:
        from pipeline.evaluation.results import set_description

        described = {
            name: set_description(each, offline_samples=self.offline_samples) for name, each in self.sets.items()
        }
        if "completion" in scored:
            passages = {"items": len(scored["completion"].items), "total": len(scored["completion"].items)}
            mark = described["wikitext"]["mark"] or "our own passages, not comparable"
            described["completion"] = {**described["wikitext"], **passages, "mark": mark}
        return {task: described[task] for task in scored}


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
    for name, counts in PRESETS.items():
        shown = ", ".join(f"{count} {task}" for task, count in counts.items()) or "everything, comparable"
        presets.add_argument(f"--{name}", dest="preset", action="store_const", const=name, help=shown)
    parser.set_defaults(preset="standard")
    parser.add_argument("--tasks", default=",".join(TASKS), metavar="A,B", help=f"some of {','.join(TASKS)}")
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
    unknown = [task for task in args.tasks if task not in TASKS]
    if unknown:
        parser.error(f"task {unknown[0]!r} is unknown{did_you_mean(unknown[0], TASKS)}; one of {', '.join(TASKS)}")
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
    # The sets first: what is missing there is said before a model is loaded.
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
    from pipeline.formats.run_folders import find_checkpoint
    from pipeline.generation.loading import load_all

    if not args.over_training:
        return load_all(args.checkpoint or ["latest"], config, device=args.device)
    folder = find_checkpoint(args.over_training, config.paths.checkpoint_dir).parent
    kept = [*folder.glob("checkpoint_step_*.pt"), *folder.glob("checkpoint_epoch_*.pt")]
    paths = [*sorted(kept, key=_number), *folder.glob("checkpoint_latest.pt")]
    models = load_all([f"{path.stem.removeprefix('checkpoint_')}={path}" for path in paths], config, device=args.device)
    by_step = {loaded.content["step"]: loaded for loaded in models}  # latest is often the newest step's twin
    if len(by_step) < 2:
        raise UsageError(f"{folder} has {len(by_step)} checkpoint(s); a curve over training needs at least two")
    return list(by_step.values())


def _number(path: Path) -> int:
    """checkpoint_step_120.pt → 120."""
    return int(path.stem.rsplit("_", 1)[1])


def _check_fit(name: str, model: Any, tokenizer: Any) -> None:
    if tokenizer.vocab_size != model.config.vocab_size:
        raise PipelineError(
            f"{name}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}; "
            "give the one that it was trained with: --set paths.tokenizer_dir=DIR"
        )


if __name__ == "__main__":
    run(main)
