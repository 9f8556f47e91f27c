"""Multiple choice: the scores of every task whose answers are ranked by their log-probabilities.

`acc` picks the most likely answer and `acc_norm` the one with the highest log-probability per character, as in
lm-evaluation-harness. Small models differ in the bits per byte that they need for the right answer long before their
accuracy rises above that of guessing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from pipeline.evaluation.statistics import Figure
from pipeline.evaluation.task import TaskResult, accuracy

ANSWER_BITS = "answer_bits_per_byte"


@dataclass(frozen=True)
class ChoiceMark:
    """The result for one question; an answer that ties for the best counts in proportion.

    Args:
        chance: the accuracy of guessing.
        answer_loss: the right answer's negative log-probability per byte of its text, in nats.
    """

    acc: float
    acc_norm: float
    chance: float
    answer_loss: float
    loglikelihoods: list[float]


def mark_choices(loglikelihoods: Sequence[float], answers: Sequence[str], label: int) -> ChoiceMark:
    """The mark of a question with these `answers`, of which the one at index `label` is right."""
    totals = np.asarray(loglikelihoods, dtype=np.float64)
    characters = np.array([float(len(answer)) for answer in answers])
    return ChoiceMark(
        acc=chance_of_best(totals, label),
        acc_norm=chance_of_best(totals / characters, label),
        chance=1 / len(answers),
        answer_loss=-float(totals[label]) / len(answers[label].encode()),
        loglikelihoods=totals.tolist(),
    )


def chance_of_best(scores: np.ndarray, label: int) -> float:
    """The chance that `label` is picked as the best of `scores`, with ties broken at random."""
    best = scores == scores.max()
    return float(best[label]) / int(best.sum())


def choice_figures(marks: Sequence[ChoiceMark]) -> dict[str, Figure]:
    """The scores of all questions."""
    chance = float(np.mean([mark.chance for mark in marks]))
    acc, acc_norm = [mark.acc for mark in marks], [mark.acc_norm for mark in marks]
    losses = [mark.answer_loss for mark in marks]
    return {
        "acc": accuracy(acc),
        "acc_norm": accuracy(acc_norm),
        "acc_above_chance": accuracy(acc, chance=chance),
        "acc_norm_above_chance": accuracy(acc_norm, chance=chance),
        ANSWER_BITS: Figure(losses, scale="bits", higher_is_better=False, unit="bits"),
    }


def choice_result(marks: Sequence[ChoiceMark]) -> TaskResult:
    return TaskResult(choice_figures(marks), [cast(dict[str, object], vars(mark)) for mark in marks])
