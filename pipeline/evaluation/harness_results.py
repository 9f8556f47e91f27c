"""The results of lm-evaluation-harness as scores of our reports.

Accuracies are computed from the harness's log-probabilities, so that equally likely answers count as chance; without
ties, they and their standard errors equal the harness's. Other metrics keep the harness's value and standard error, and
models are compared by the values of the items if the harness has them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pipeline.evaluation.multiple_choice import ANSWER_BITS, ChoiceMark, choice_figures, mark_choices
from pipeline.evaluation.statistics import AnyFigure, Figure, QuotedFigure
from pipeline.evaluation.task import TaskResult, accuracy

Sample = Mapping[str, Any]  # what the harness logs for a question, with its metrics by name
Metrics = Mapping[str, Any]  # "metric,filter" → value and "metric_stderr,filter" → standard error


class HarnessTask(Protocol):
    """What we read of a task of the harness."""

    OUTPUT_TYPE: str
    multiple_input: int
    multiple_target: int

    def doc_to_choice(self, doc: Any) -> list[str]: ...

    def doc_to_target(self, doc: Any) -> Any: ...

    def doc_to_text(self, doc: Any) -> Any: ...

    def aggregation(self) -> Mapping[str, Callable[..., float]]: ...

    def higher_is_better(self) -> Mapping[str, bool]: ...


def task_result(
    task: HarnessTask, samples: Sequence[Sample], metrics: Metrics, greedy_chances: Mapping[tuple[str, str], float]
) -> TaskResult:
    """The scores of a task. `greedy_chances`: of every (context, continuation), as in `HarnessRequests`."""
    figures = _harness_figures(task, samples, metrics)
    marks = [mark for sample in samples if (mark := _mark(task, sample)) is not None]
    if marks and len(marks) == len(samples):
        figures = _with_choices(figures, marks)
        records = [{"doc_id": sample["doc_id"], **vars(mark)} for sample, mark in zip(samples, marks, strict=True)]
        return TaskResult(figures, records)
    if task.OUTPUT_TYPE == "loglikelihood" and "acc" in figures:
        chances = [greedy_chances[_pair(sample)] for sample in samples]
        figures["acc"] = accuracy(chances, note=_ties_note(figures["acc"], chances))
    return TaskResult(figures, [_record(sample) for sample in samples])


def _harness_figures(task: HarnessTask, samples: Sequence[Sample], metrics: Metrics) -> dict[str, AnyFigure]:
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    figures: dict[str, AnyFigure] = {}
    for filter_name in filters:
        filtered = [sample for sample in samples if sample["filter"] == filter_name]
        for metric in dict.fromkeys(metric for sample in filtered for metric in sample["metrics"]):
            name = metric if len(filters) == 1 else f"{metric} ({filter_name})"
            values = [sample[metric] for sample in filtered if metric in sample]
            figures[name] = _figure(task, metric, values, metrics, filter_name)
    return figures


def _figure(task: HarnessTask, metric: str, values: Sequence[Any], metrics: Metrics, filter_name: str) -> AnyFigure:
    higher = task.higher_is_better().get(metric, True)
    aggregation = getattr(task.aggregation().get(metric), "__name__", "mean")
    items = _items(metric, aggregation, values, higher_is_better=higher)
    if items is not None and aggregation == "mean":
        return items
    stderr = metrics.get(f"{metric}_stderr,{filter_name}")
    return QuotedFigure(
        value=float(metrics[f"{metric},{filter_name}"]),
        stderr=stderr if isinstance(stderr, float) else None,
        count=len(values),
        higher_is_better=higher,
        unit="bits" if metric == "bits_per_byte" else "",
        items=items,
    )


def _items(metric: str, aggregation: str, values: Sequence[Any], *, higher_is_better: bool) -> Figure | None:
    """The metric as a function of its items; None for those that are not a mean or a perplexity."""
    if aggregation == "mean" and all(isinstance(value, (int, float)) for value in values):
        numbers = [float(value) for value in values]
        is_share = all(0 <= number <= 1 for number in numbers)
        yes_no = all(number in (0.0, 1.0) for number in numbers)
        return Figure(numbers, is_yes_no=yes_no, unit="share" if is_share else "", higher_is_better=higher_is_better)
    if aggregation == "perplexity":
        return Figure([-float(value) for value in values], scale="exp", higher_is_better=False)
    if aggregation in ("weighted_perplexity", "bits_per_byte"):
        losses, weights = [-float(total) for total, _ in values], [float(count) for _, count in values]
        scale = "bits" if metric == "bits_per_byte" else "exp"
        return Figure(losses, weights, scale, higher_is_better=False)
    return None


def _mark(task: HarnessTask, sample: Sample) -> ChoiceMark | None:
    """None if the question is not a multiple choice with one right answer."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_target:
        return None
    doc, choices = sample["doc"], task.doc_to_choice(sample["doc"])
    label = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(label, str) and label in choices:
        label = choices.index(label)
    if not isinstance(label, int) or not 0 <= label < len(choices):
        return None
    answers = choices
    if task.multiple_input:  # each choice is a context, and the text after it is scored
        answers = [str(continuation).strip() for _, continuation in sample["arguments"][: len(choices)]]
    if not all(answers):
        return None
    loglikelihoods = [float(response[0]) for response in sample["filtered_resps"][: len(choices)]]
    return mark_choices(loglikelihoods, answers, label)


def _with_choices(figures: Mapping[str, AnyFigure], marks: Sequence[ChoiceMark]) -> dict[str, AnyFigure]:
    """The harness's metrics with ties counted as chance, and what `multiple_choice.py` adds."""
    found = choice_figures(marks)
    kept = dict(figures)
    for name in ("acc", "acc_norm"):
        if name in figures:
            chances = [float(getattr(mark, name)) for mark in marks]
            kept[name] = accuracy(chances, note=_ties_note(figures[name], chances))
            kept[f"{name}_above_chance"] = found[f"{name}_above_chance"]
    kept[ANSWER_BITS] = found[ANSWER_BITS]
    return kept


def _ties_note(figure: AnyFigure, chances: Sequence[float]) -> str:
    tied = sum(1 for chance in chances if chance not in (0.0, 1.0))
    if not tied:
        return ""
    return f"{tied:,} ties count as chance; lm-evaluation-harness takes the first answer: {figure.value:.1%}"


def _pair(sample: Sample) -> tuple[str, str]:
    context, continuation = sample["arguments"][0]
    return context, continuation


def _record(sample: Sample) -> dict[str, object]:
    """A question's metrics and answers as plain values."""
    metrics = {metric: _plain(sample[metric]) for metric in sample["metrics"]}
    return {"doc_id": sample["doc_id"], **metrics, "responses": _plain(sample["filtered_resps"])}


def _plain(value: Any) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
