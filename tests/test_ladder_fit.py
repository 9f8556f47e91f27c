"""The scaling law: planted laws are found again, outliers and bad ladders are handled."""

import numpy as np
import pytest

from pipeline.training.ladder.fit import Law, Point, bootstrap, fit_law
from utils.errors import PipelineError

LAW = Law(1.7, 406.0, 0.34, 410.0, 0.28)
FAR = (5e6, 6e7)  # six times the largest size and length below


def points_of(law: Law, *, noise: float = 0.0) -> list[Point]:
    random = np.random.default_rng(1)
    grid = [(size, tokens) for size in (1e5, 2e5, 4e5, 8e5) for tokens in (1e7, 3.3e6, 1.1e6)]
    return [Point(*place, law.loss(*place) * float(np.exp(noise * random.normal()))) for place in grid[:8] + grid[9:11]]


@pytest.mark.parametrize("law", [LAW, Law(2.0, 50.0, 0.3, 3000.0, 0.45)])
def test_a_planted_law_is_found_again(law):
    found = fit_law(points_of(law))
    assert found.floor == pytest.approx(law.floor, rel=0.05)
    assert found.parameter_exponent == pytest.approx(law.parameter_exponent, abs=0.02)
    assert found.token_exponent == pytest.approx(law.token_exponent, abs=0.02)
    assert np.log(found.parameter_factor) == pytest.approx(np.log(law.parameter_factor), rel=0.03)
    assert np.log(found.token_factor) == pytest.approx(np.log(law.token_factor), rel=0.03)


def test_noisy_points_predict_within_their_interval():
    points = points_of(LAW, noise=0.003)
    found = fit_law(points)
    assert found.loss(*FAR) == pytest.approx(LAW.loss(*FAR), rel=0.01)
    low, high = np.percentile([law.loss(*FAR) for law in bootstrap(points, found, samples=100)], [5, 95])
    assert low < LAW.loss(*FAR) < high
    assert (high - low) / LAW.loss(*FAR) < 0.1
    assert 0.001 < found.typical_error(points) < 0.006


def test_how_bad_an_outlier_is_does_not_matter():
    points = points_of(LAW)

    def predicted(factor: float) -> float:
        bad = Point(points[4].parameters, points[4].tokens, points[4].loss * factor)
        return fit_law([*points[:4], bad, *points[5:]]).loss(*FAR)

    assert predicted(1.2) == pytest.approx(predicted(1.05), rel=1e-3)
    assert predicted(1.2) == pytest.approx(LAW.loss(*FAR), rel=0.06)


def test_too_few_or_too_similar_runs_are_refused():
    points = points_of(LAW)
    with pytest.raises(PipelineError, match="at least 7 finished runs; found 6"):
        fit_law(points[:6])
    with pytest.raises(PipelineError, match="3 model sizes and 3 lengths; found 4 and 1"):
        fit_law([Point(point.parameters, 1e6, point.loss) for point in points])
