"""Multiple choice: accuracy with ties, accuracy above chance, and the bits that the right answer costs."""

import math

import numpy as np
import pytest

from pipeline.evaluation.multiple_choice import ChoiceMark, choice_figures, mark_choices
from pipeline.evaluation.results import comparisons, figure_values, ranking
from pipeline.evaluation.task import TaskResult
from pipeline.evaluation.wording import in_words, interval_text

ANSWERS = ["a cat", "a dög"]


def marks_of(right: int, total: int, *, answers: int = 4) -> list[ChoiceMark]:
    return [mark_choices([-1.0 if k == 0 else -2.0 for k in range(answers)], ["x"] * answers, int(index >= right))
            for index in range(total)]  # fmt: skip


def test_bits_of_the_right_answer_count_its_bytes():
    mark = mark_choices([-9.0, -3.0], ANSWERS, 1)
    assert choice_figures([mark])["answer_bits_per_byte"].value == pytest.approx(3.0 / math.log(2) / 6)


def test_bits_of_answers_are_averaged_over_questions():
    marks = [mark_choices([-4.0, -3.0], ["ab", "x"], 0), mark_choices([-6.0, -3.0], ["abcdef", "x"], 0)]
    assert choice_figures(marks)["answer_bits_per_byte"].value == pytest.approx((4 / 2 + 6 / 6) / 2 / math.log(2))


@pytest.mark.parametrize(("right", "expected"), [(20, 1.0), (5, 0.0), (0, -1 / 3), (10, 1 / 3)])
def test_accuracy_above_chance_is_zero_for_guessing(right, expected):
    figures = choice_figures(marks_of(right, 20))
    assert figures["acc_above_chance"].value == pytest.approx(expected)


def test_chance_is_that_of_each_question():
    figures = choice_figures(marks_of(1, 1, answers=2) + marks_of(0, 1, answers=5))
    assert figures["acc_above_chance"].value == pytest.approx((0.5 - 0.35) / 0.65)


def test_error_above_chance_is_that_of_accuracy_rescaled():
    figures = choice_figures(marks_of(12, 40))
    plain, rescaled = figures["acc"], figures["acc_above_chance"]
    assert rescaled.stderr == pytest.approx(plain.stderr / 0.75)
    assert rescaled.interval == pytest.approx([(bound - 0.25) / 0.75 for bound in plain.interval])
    other = choice_figures(marks_of(20, 40))
    assert rescaled.p_value(other["acc_above_chance"]) == plain.p_value(other["acc"])


def test_rescaled_accuracies_do_not_count_twice_in_rankings():
    better, worse = ({"task": TaskResult(choice_figures(marks_of(right, 40)), [])} for right in (30, 10))
    compared = comparisons({"better": better, "worse": worse})
    assert [ranked["model"] for ranked in ranking(compared)] == ["better", "worse"]
    without = {name: value for name, value in compared.items() if "above_chance" not in name}
    assert ranking(without) == ranking(compared)


def test_intervals_below_zero_are_readable():
    figure = figure_values(choice_figures(marks_of(0, 10))["acc_above_chance"])
    assert interval_text(figure) == "-33.3 to 3.7%"


def test_harness_tasks_are_summed_up_in_words():
    figures = {"arc_easy": choice_figures(marks_of(30, 40)), "piqa": choice_figures(marks_of(20, 40, answers=2))}
    values = {task: {name: figure_values(figure) for name, figure in found.items()} for task, found in figures.items()}
    assert in_words({"figures": values}) == [
        "It is better than guessing at arc_easy.",
        "It is no better than guessing at piqa.",
    ]


def test_equal_logprobabilities_score_as_guessing():
    marks = [mark_choices([-2.0] * 4, ["one", "two", "six", "ten"], label) for label in (0, 0, 0, 3)]
    assert np.mean([mark.acc for mark in marks]) == np.mean([mark.acc_norm for mark in marks]) == 0.25
    assert choice_figures(marks)["acc_above_chance"].value == 0
