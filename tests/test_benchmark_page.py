"""The page of a benchmark in a real browser: accessible, no wider than the screen, and complete in one file."""

import pytest

from pipeline.evaluation.html_report import benchmark_page
from tests.test_benchmark_report import made_up_results
from tests.test_page import VIEWS, browser

pytestmark = pytest.mark.slow
__all__ = ["browser"]
NAMES = ["a", "a_rather_long_name_of_a_run_2026_01_31", "b", "c", "d"]


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_report_is_accessible_and_fits_the_screen(browser, tmp_path, scheme, width, count):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -r requirements-slow.txt")
    names = NAMES[:count]
    results = made_up_results(dict.fromkeys(names, 0.5), steps={name: place * 10 for place, name in enumerate(names)})
    path = tmp_path / "report.html"
    path.write_text(benchmark_page(results, over_training=count == 5), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    violations = axe.Axe().run(page).response["violations"]
    assert not violations, [(rule["id"], rule["nodes"][0]["html"]) for rule in violations]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [path.as_uri()]
    context.close()
