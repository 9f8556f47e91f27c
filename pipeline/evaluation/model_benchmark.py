"""Score several models on the same items, and write the reports."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.presets import PRESETS, SETS, TASK_NAMES
from utils.errors import PipelineError, did_you_mean
from utils.terminal import visible

if TYPE_CHECKING:
    from pathlib import Path

    from model import TransformerLM
    from pipeline.configuration import Config
    from pipeline.evaluation.benchmark_sets import BenchmarkSet
    from pipeline.evaluation.harness import Harness
    from pipeline.evaluation.report_files import ReportFiles
    from pipeline.evaluation.scoring import Scorer
    from pipeline.evaluation.task import TaskResult
    from pipeline.tokenization.interface import Tokenizer

RULES = "Scored like lm-evaluation-harness 0.4.13 with add_bos_token=True."


class ModelBenchmark:
    """Score models on the same items and write the results to ``paths.benchmark_dir``.

    results = ModelBenchmark().run_full_benchmark({"a": (model, tokenizer), "b": (model2, tokenizer2)})
    print(format_benchmark_results(results))

    Args:
        config: None: config.json. Its benchmark.data_dir has the sets; null downloads them from the hub.
        preset: ``quick``, ``standard``, ``comprehensive`` or ``full``.
        tasks: any of ``wikitext``, ``lambada``, ``hellaswag``, ``completion``.
        offline_samples: use the small built-in sets instead; not comparable with published scores.
        harness: tasks of lm-evaluation-harness, scored after `tasks`.

    Raises:
        PipelineError: an unknown preset, or a set that is missing or malformed.
    """

    def __init__(
        self,
        config: "Config | None" = None,
        *,
        preset: str = "standard",
        tasks: Sequence[str] = TASK_NAMES,
        offline_samples: bool = False,
        harness: "Harness | None" = None,
    ) -> None:
        if preset not in PRESETS:
            raise PipelineError(
                f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}; expected one of {', '.join(PRESETS)}"
            )
        if "completion" in tasks:
            import rouge_score  # noqa: F401, fail before scoring if a package is missing
            import sacrebleu  # noqa: F401
        from pipeline.configuration import load_config
        from pipeline.evaluation.benchmark_sets import load_sets

        config = config or load_config()
        self.preset = preset
        self.tasks = tuple(tasks)
        self.harness = harness
        self.offline_samples = offline_samples
        self.directory = config.paths.benchmark_dir
        names = [name for name in SETS if name in tasks or (name == "wikitext" and "completion" in tasks)]
        loaded = load_sets(names, data_dir=config.benchmark.data_dir, preset=preset, offline_samples=offline_samples)
        self.sets: dict[str, BenchmarkSet] = {data.name: data for data in loaded}

    def run_full_benchmark(
        self,
        models: "Mapping[str, tuple[TransformerLM, Tokenizer]]",
        *,
        contents: Mapping[str, Mapping[str, Any]] | None = None,
        paths: "Mapping[str, Path] | None" = None,
        files: "ReportFiles | None" = None,
        over_training: bool = False,
    ) -> dict[str, Any]:
        """Score the models, write the reports, and return the results as plain values.

        Args:
            models: {name: (model, tokenizer)}.
            contents: their checkpoints' contents without tensors, with the record of their training data.
            paths: the files of their checkpoints, recorded in the results.
            files: where to write the reports; None: new files in ``paths.benchmark_dir``.
            over_training: the models are checkpoints of one run, so plot curves.

        Raises:
            PipelineError: no model, or a tokenizer that does not match its model.
        """
        from pipeline.evaluation.report_files import ReportFiles

        if not models:
            raise PipelineError("no models to benchmark; expected a dict {name: (model, tokenizer)}")
        for name, (model, tokenizer) in models.items():
            _check_fit(name, model, tokenizer)
        files = files or ReportFiles(self.directory)
        contents = contents or {}
        scored = {name: self._score(name, model, tokenizer) for name, (model, tokenizer) in models.items()}
        first_model, _ = next(iter(models.values()))
        results = self._results(scored, contents, device=str(first_model.device))
        for name, (_, tokenizer) in models.items():
            results["models"][name]["vocab_size"] = tokenizer.vocab_size
        for name, path in (paths or {}).items():
            results["models"][name]["checkpoint"] = str(path.resolve())
        files.save(results)
        for name, (model, tokenizer) in models.items():
            results["models"][name] |= self._facts(name, model, tokenizer, contents.get(name, {}))
        files.save(results)
        files.add_pictures(results, over_training=over_training)
        return results

    def _score(self, name: str, model: "TransformerLM", tokenizer: "Tokenizer") -> "dict[str, TaskResult]":
        from pipeline.evaluation.scoring import Scorer

        scorer = Scorer(model)
        results = {}
        for task in self.tasks:
            print(visible(f"{name}: {task}"), file=sys.stderr, flush=True)
            result = self._score_task(task, scorer, tokenizer)
            if result is None:
                left_out = f"{name}: {task} is skipped because no WikiText paragraph is long enough"
                print(visible(left_out), file=sys.stderr)
            else:
                results[task] = result
        if self.harness:
            print(visible(f"{name}: lm-evaluation-harness"), file=sys.stderr, flush=True)
            results |= self.harness.score(scorer, tokenizer)
        return results

    def _score_task(self, task: str, scorer: "Scorer", tokenizer: "Tokenizer") -> "TaskResult | None":
        """Returns None if the completion task finds no passage."""
        from pipeline.evaluation.benchmark_sets import TASKS
        from pipeline.evaluation.completion import MAX_PASSAGES, passages_of, score_completion

        if task in TASKS:
            return TASKS[task].score(scorer, tokenizer, self.sets[task].items)
        passages = passages_of(self.sets["wikitext"].items, PRESETS[self.preset].get("lambada", MAX_PASSAGES))
        return score_completion(scorer.model, tokenizer, passages) if passages else None

    def _results(
        self,
        scored: "Mapping[str, Mapping[str, TaskResult]]",
        contents: Mapping[str, Mapping[str, Any]],
        *,
        device: str,
    ) -> dict[str, Any]:
        """The scores, without the additions of `_facts`."""
        from pipeline.evaluation.results import FORMAT_VERSION, comparisons, model_result, ranking

        compared = comparisons(scored)
        return {
            "format_version": FORMAT_VERSION,
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
            "settings": {"preset": self.preset, "device": device, "rules": self._rules()},
            "sets": self._descriptions(next(iter(scored.values()))),
            "models": {
                name: {**model_result(tasks), "step": contents.get(name, {}).get("step"), **self._open_facts()}
                for name, tasks in scored.items()
            },
            "comparisons": compared,
            "ranking": ranking(compared),
        }

    def _open_facts(self) -> dict[str, Any]:
        from pipeline.evaluation.contamination import NOT_CHECKED

        names = [*self.sets, *self._harness_descriptions()]
        return {"contamination": dict.fromkeys(names, NOT_CHECKED), "speed": None, "sample": None}

    def _facts(
        self, name: str, model: "TransformerLM", tokenizer: "Tokenizer", content: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Facts about a model besides its scores; facts that fail are skipped."""
        from pipeline.evaluation.contamination import contamination
        from pipeline.evaluation.report_files import attempt
        from pipeline.evaluation.speed import measure_speed, write_sample

        work = {
            "contamination": lambda: (
                self._open_facts()["contamination"]
                | {data.name: contamination(content, data) for data in self.sets.values()}
            ),
            "speed": lambda: measure_speed(model, tokenizer),
            "sample": lambda: write_sample(model, tokenizer),
        }
        found = {fact: attempt(f"{name}: {fact}", find) for fact, find in work.items()}
        return {fact: value for fact, value in found.items() if value}

    def _descriptions(self, scored: "Mapping[str, TaskResult]") -> dict[str, Any]:
        from pipeline.evaluation.results import set_description

        described = {
            name: set_description(data, offline_samples=self.offline_samples) for name, data in self.sets.items()
        }
        if "completion" in scored:
            count = len(scored["completion"].items)
            mark = described["wikitext"]["mark"] or "custom passages, not comparable"
            described["completion"] = {**described["wikitext"], "items": count, "total": count, "mark": mark}
        described |= self._harness_descriptions()
        return {task: described[task] for task in scored}

    def _rules(self) -> str:
        from pipeline.evaluation.harness import harness_version

        if not self.harness:
            return RULES
        run = f"Run by lm-evaluation-harness {harness_version()} with add_bos_token=True."
        return f"{RULES} Other tasks: {run[0].lower()}{run[1:]}" if self.tasks else run

    def _harness_descriptions(self) -> dict[str, dict[str, object]]:
        return self.harness.descriptions() if self.harness else {}


def _check_fit(name: str, model: "TransformerLM", tokenizer: "Tokenizer") -> None:
    if tokenizer.vocab_size != model.config.vocab_size:
        raise PipelineError(
            f"{name}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model has "
            f"{model.config.vocab_size:,}; use the tokenizer that it was trained with: --set "
            "paths.tokenizer_dir=DIR"
        )
