"""Standard errors, intervals and significance tests against values calculated by hand."""

import math

import numpy as np
import pytest

from pipeline.evaluation.statistics import (
    BleuFigure,
    Figure,
    compare,
    mcnemar,
    paired,
    rank_models,
    standard_error,
    two_sided,
)
from utils.intervals import wilson_interval

Z = 1.959964


def test_standard_error_of_two_values():
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert standard_error([1.0]) is None


def test_a_perplexity_has_an_interval_longer_upwards():
    figure = Figure([4.0, 12.0], [2.0, 4.0], "exp")
    ratio, error = 16 / 6, (4 - 2 * 16 / 6) / 3  # the residuals are two values of the same size, so that is their error
    assert figure.value == pytest.approx(math.exp(ratio))
    assert figure.stderr == pytest.approx(math.exp(ratio) * abs(error))
    assert figure.interval == pytest.approx([math.exp(ratio + side * Z * error) for side in (1, -1)])


def test_bits_are_nats_divided_by_ln_2():
    figure = Figure([1.0, 3.0], scale="bits")
    assert figure.value == pytest.approx(2 / math.log(2))
    assert figure.stderr == pytest.approx(1 / math.log(2))
    assert figure.interval == pytest.approx([(2 - Z) / math.log(2), (2 + Z) / math.log(2)])


@pytest.mark.parametrize(
    ("unit", "x", "interval"),
    [
        ("share", [0.9, 1.0, 0.2, 1.0], (0.775 - 0.193 * Z, 1.0)),
        ("points", [90, 100, 20, 100], (77.5 - 19.31 * Z, 100.0)),
        ("", [90, 100, 20, 100], (77.5 - 19.31 * Z, 77.5 + 19.31 * Z)),
        ("", [0, 1, 0, 20], (0.0, 5.25 + 4.922 * Z)),
    ],
)
def test_intervals_end_where_scores_do(unit, x, interval):
    assert Figure(x, unit=unit).interval == pytest.approx(interval, abs=0.01)


def test_a_single_item_has_no_error_and_no_test():
    single = Figure([1.0])
    assert single.stderr is single.interval is single.p_value(single) is None
    bleu = bleu_figure([[7, 6, 5, 4]])
    assert bleu.stderr is bleu.interval is bleu.p_value(bleu) is None


def test_a_loss_too_large_for_a_perplexity_is_infinite():
    assert Figure([10_000.0], scale="exp").value == math.inf


def test_an_interval_without_items_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_few_differences_are_tested_by_flipping_signs():
    assert paired(np.ones(3)) == pytest.approx(2 / 2**3, abs=0.02)
    assert paired(np.array([0.1, 0.2, 0.3])) == pytest.approx(2 / 2**3, abs=0.02)
    assert paired(np.array([3.0, 2.0, -1.0])) == pytest.approx(4 / 2**3, abs=0.02)
    assert paired(np.ones(60)) == 1 / 10_001  # never 0, however clear


def test_many_differences_are_tested_as_normal():
    differences = np.array([1.0, -0.8] * 200)
    error = differences.std(ddof=1) / 20
    assert paired(differences) == pytest.approx(math.erfc(0.1 / error / math.sqrt(2)))
    assert paired(np.ones(400)) == 0


def test_a_normal_test_has_two_sides():
    assert two_sided(-1.96, 1.0) == two_sided(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert two_sided(0.0, 0.0) == 1
    assert two_sided(0.1, 0.0) == 0


@pytest.mark.parametrize(("wins", "losses"), [(1200, 1000), (540, 470), (480, 420)])
def test_many_disagreements_are_tested_as_normal(wins, losses):
    p = mcnemar([1] * wins + [0] * losses, [0] * wins + [1] * losses)
    gap = wins - losses if wins + losses > 1000 else wins - losses - 1  # with the continuity correction
    assert p == pytest.approx(math.erfc(gap / math.sqrt(wins + losses) / math.sqrt(2)), rel=0.01)


def test_no_disagreement_is_no_difference():
    assert mcnemar([1, 0], [1, 0]) == 1
    assert mcnemar([1, 0], [0, 1]) == 1


def test_only_a_clear_winner_is_called_best():
    losses = np.random.default_rng(0).normal(3, 0.1, 50)
    better, same, worse = (Figure((losses + shift).tolist(), higher_is_better=False) for shift in (0.0, 0.001, 1.0))
    noisy = Figure(np.random.default_rng(1).permutation(losses).tolist(), higher_is_better=False)
    clear = compare({"worse": worse, "better": better})
    assert (clear["order"], clear["best"]) == (["better", "worse"], "better")
    assert clear["ranks"] == {"better": 1, "worse": 2}
    assert [(pair["better"], pair["worse"]) for pair in compare({"a": better, "b": same, "c": worse})["pairs"]] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert compare({"a": better, "noisy": noisy, "worse": worse})["best"] is None
    assert compare({"alone": better})["best"] is None
    higher = compare({"low": Figure([0.0, 0.1]), "high": Figure([1.0, 1.1])})
    assert higher["order"] == ["high", "low"]


def test_models_are_ranked_by_their_mean_rank():
    comparisons = {
        "one": {"ranks": {"a": 2, "b": 1}},
        "two": {"ranks": {"a": 1.5, "b": 1.5}},
        "three": {"ranks": {"a": 3}},
    }
    assert rank_models(comparisons) == [("b", 1.25), ("a", 6.5 / 3)]


def bleu_figure(counts: list[list[int]], *, scale: int = 1) -> BleuFigure:
    """Of items with 7 words or `scale` times as many."""
    totals, lengths = ([row] * len(counts) for row in ([7, 6, 5, 4], [7, 7]))
    return BleuFigure(np.array(counts), scale * np.array(totals), scale * np.array(lengths))


def test_bleu_is_lower_for_texts_that_are_too_short():
    perfect = np.array([[5, 4, 3, 2]])
    assert BleuFigure(perfect, perfect, np.array([[5, 7]])).value == pytest.approx(100 * math.exp(1 - 7 / 5))


def test_differences_below_a_point_of_bleu_are_tested_too():
    best, good, fair, poor = ([count - minus for count in (700, 600, 500, 400)] for minus in range(4))
    mine, other = bleu_figure([best, poor], scale=100), bleu_figure([poor, good], scale=100)
    assert abs(mine.value - other.value) < 1
    assert mine.p_value(other) == other.p_value(mine) == pytest.approx(0.5, abs=0.06)
    always = bleu_figure([best, best], scale=100)
    assert always.p_value(bleu_figure([fair, fair], scale=100)) == 0


def test_models_are_compared_by_bleu_on_the_same_resamples():
    good, fair, poor = [7, 6, 5, 4], [6, 4, 2, 1], [4, 2, 1, 0]
    # Of the resamples of two items, a quarter is the second one twice; only then the other model is better.
    mine, other = bleu_figure([good, poor]), bleu_figure([poor, fair])
    assert mine.p_value(other) == other.p_value(mine) == pytest.approx(0.5, abs=0.06)
    assert mine.p_value(mine) == 1
    assert bleu_figure([good] * 5).p_value(bleu_figure([poor] * 5)) == 0


def test_bleu_varies_as_its_items_do():
    figure = bleu_figure([[7, 6, 5, 4], [4, 2, 1, 0]] * 10)
    low, high = figure.interval
    assert low < figure.value < high
    assert high - low == pytest.approx(2 * Z * figure.stderr, rel=0.2)
    assert bleu_figure([[6, 4, 2, 1]] * 2).stderr == pytest.approx(0, abs=1e-9)
    assert len(set(bleu_figure([[7, 6, 5, 4], [4, 2, 1, 0]]).interval)) == 2


def test_bleu_has_points_and_higher_is_better():
    figure = bleu_figure([[7, 6, 5, 4]])
    assert (figure.value, figure.unit, figure.higher_is_better) == (pytest.approx(100), "points", True)
