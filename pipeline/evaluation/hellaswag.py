"""HellaSwag, commonsense: which of four endings is correct? (Zellers et al. 2019, arXiv:1905.07830)

Texts are cleaned like in lm-evaluation-harness 0.4.13, so that the scores agree. `acc` picks the ending with the
highest log-probability, `acc_norm` the one with the highest log-probability per character.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.evaluation.scoring import Score, Scorer, encode_pairs, regroup
from pipeline.evaluation.task import HubSource, Row, Task, TaskResult, accuracy, read_json_lines
from pipeline.tokenization.interface import Tokenizer


@dataclass(frozen=True)
class Choice:
    """A cleaned question; `label` is the index of the correct ending."""

    context: str
    endings: tuple[str, ...]
    label: int


class HellaSwag(Task[Choice]):
    name = "hellaswag"
    hub = HubSource("Rowan/hellaswag", None, "validation")

    def read(self, path: Path) -> list[Row]:
        return read_json_lines(path, _problem)

    def items(self, rows: Iterable[Row], *, is_whole_set: bool) -> list[Choice]:
        return [hellaswag_choice(row) for row in rows]

    def score(self, scorer: Scorer, tokenizer: Tokenizer, items: Sequence[Choice]) -> TaskResult:
        pairs = [(choice.context, f" {ending}") for choice in items for ending in choice.endings]
        flat = scorer.score(encode_pairs(tokenizer, pairs), label="HellaSwag")
        grouped = regroup(flat, [len(choice.endings) for choice in items])
        marks = [_mark(choice, scores) for choice, scores in zip(items, grouped, strict=True)]
        figures = {
            "acc": accuracy(mark.acc for mark in marks),
            "acc_norm": accuracy(mark.acc_norm for mark in marks),
        }
        return TaskResult(figures, [vars(mark) for mark in marks])


@dataclass(frozen=True)
class _Mark:
    """The result for one question."""

    acc: float
    acc_norm: float
    loglikelihoods: list[float]


def _mark(choice: Choice, scores: Sequence[Score]) -> _Mark:
    totals = np.array([score.total for score in scores])
    characters = np.array([float(len(ending)) for ending in choice.endings])
    return _Mark(
        acc=chance_of_best(totals, choice.label),
        acc_norm=chance_of_best(totals / characters, choice.label),
        loglikelihoods=totals.tolist(),
    )


def chance_of_best(scores: np.ndarray, label: int) -> float:
    """The chance that `label` is picked as the best of `scores`, with ties broken at random."""
    best = scores == scores.max()
    return float(best[label]) / int(best.sum())


def hellaswag_choice(row: Row) -> Choice:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(clean_hellaswag(ending) for ending in row["endings"])
    return Choice(clean_hellaswag(context), endings, int(row["label"]))


def clean_hellaswag(text: str) -> str:
    """Remove WikiHow's bracketed marks from `text`, like the harness."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _problem(row: Row) -> str:
    for key in ("activity_label", "ctx_a", "ctx_b"):
        if not isinstance(row.get(key), str):
            return f"{key} is {row.get(key)!r}; expected a string"
    endings = row.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(_is_text(ending) for ending in endings):
        return f"endings is {endings!r}; expected at least two strings"
    label = str(row.get("label"))
    if not (label.isdecimal() and int(label) < len(endings)):
        return f"label is {row.get('label')!r}; expected the index of the correct ending"
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
