"""The runs page in a real browser: choosing, following, reading, saving, and its accessibility."""

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.configuration import Config
from pipeline.formats.checkpoint import only_training_run
from pipeline.runs.routes import create_app
from pipeline.runs.web_server import make_uvicorn
from tests.test_page import VIEWS, browser
from tests.test_runs import RUN, Folder, begin, end, start, step

pytestmark = pytest.mark.slow
__all__ = ["browser"]
OTHER = "sft_lima_2026_01_31_12_00_second"


class RunsServer:
    """The page in uvicorn, in a thread and on its own port."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        app, page = create_app(replace(Config(), paths=folder.paths))
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._uvicorn = make_uvicorn(app, greeting="", on_exit=page.stop)
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join()


@pytest.fixture
def server(tmp_path):
    running = RunsServer(Folder(tmp_path))
    yield running
    running.close()


@pytest.fixture
def open_page(browser, server):
    """Open the page as a new visitor; the test fails if the page reports a problem or loads anything from elsewhere."""
    problems, contexts = [], []

    def opened(query: str = "", *, scheme: str = "light", width: int = 1280, ready: str = "#charts svg"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda one: problems.append(one.url) if not one.url.startswith((server.url, "blob:")) else 0)
        page.goto(f"{server.url}/runs{query}")
        page.locator(ready).first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def two_runs(folder: Folder) -> None:
    """A pretraining run with everything, and a fine-tuning run."""
    path = folder.checkpoint("best")
    folder.checkpoint("step_200")
    folder.log(start(sample_prompts=["Once"], learning_rate=0.1), begin(400))
    for number in range(1, 401):
        folder.log(step(number, 400 / number, train_grad_norm=1.0, mfu=0.4, speed_memory_bytes=2e9))
        if number % 100 == 0:
            folder.log({"step": number, "time": time.time(), "val_loss": 500 / number, "train_tokens": number * 10})
            folder.log({"event": "sample", "step": number, "time": time.time(), "text": f"Once at {number}"})
    folder.log({"event": "skipped_step", "step": 150, "time": time.time(), "reason": "the loss is nan"})
    folder.log(end(400))
    folder.log(start(learning_rate=0.2), begin(40), *(step(number) for number in range(1, 41)), end(40), run=OTHER)
    figure = {"value": 0.25, "interval": [0.21, 0.29], "higher_is_better": True, "unit": "share"}
    results = {
        name: {
            "checkpoint": str(path.with_name(f"checkpoint_{name}.pt")),
            "step": at,
            "figures": {"lambada": {"acc": figure}},
        }
        for name, at in (("step_200", 200), ("best", 400))
    }
    folder.results(**results)


def test_empty_folders_say_how_to_train(open_page):
    page = open_page(ready="#empty")
    page.locator("#empty").get_by_text("python3 main.py quickstart").wait_for()
    page.locator("#empty").get_by_text("logs/raw_metrics").wait_for()


def test_a_click_compares_runs_and_the_address_keeps_it(open_page, server):
    two_runs(server.folder)
    page = open_page(f"?run={RUN}")
    assert page.locator("#legend li").all_inner_texts() == ["training", "validation", "skipped step"]
    page.locator(f"input[value={OTHER}]").check()
    page.get_by_text("second · Jan 31, 12:00 · training").wait_for()
    page.get_by_label("Log scale").check()
    page.locator("#axis [value=tokens]").check()
    page.locator("#config td", has_text="training.learning_rate").wait_for()
    assert page.url.endswith(f"?run={RUN}&run={OTHER}&x=tokens&log=1")
    again = open_page(page.url.partition("/runs")[2])
    again.get_by_text("second · Jan 31, 12:00 · training").wait_for()
    assert again.get_by_label("Log scale").is_checked()


def test_training_is_followed_live(open_page, server):
    server.folder.checkpoint()
    server.folder.log(
        start(), begin(), *(step(number) | {"time": time.time() - 50 + number} for number in range(1, 41))
    )
    with only_training_run(server.folder.paths.checkpoint_dir / RUN):
        page = open_page()
        page.locator("#cards").get_by_text("training now").wait_for()
        page.locator("#cards").get_by_text("Time left").wait_for()
        server.folder.log(step(41, 0.125) | {"time": time.time()}, step(42, 0.125) | {"time": time.time()})
        page.locator("#cards dd", has_text="42").first.wait_for()
        page.locator("[aria-label*='training ends at 0.1250']").first.wait_for()
    page.locator("#cards").get_by_text("interrupted", exact=True).wait_for()
    (server.folder.store.log_folder / f"{RUN}.jsonl").unlink()
    page.locator("#runs .badge", has_text="no log").wait_for()


def test_values_are_read_by_keyboard(open_page, server):
    two_runs(server.folder)
    page = open_page(f"?run={RUN}")
    plot = page.locator(".plot").first
    plot.focus()
    page.keyboard.press("Home")
    assert "400.0" in page.locator(".readout").first.inner_text()
    page.keyboard.press("End")
    assert "1.0000" in page.locator(".readout").first.inner_text()
    page.keyboard.press("+")
    page.get_by_text("Reset zoom").wait_for()
    assert "from=" in page.url
    page.keyboard.press("Escape")
    page.get_by_text("Reset zoom").wait_for(state="hidden")


def test_samples_move_from_validation_to_validation(open_page, server):
    two_runs(server.folder)
    page = open_page(f"?run={RUN}")
    text = page.locator("#texts blockquote")
    text.get_by_text("at 400").wait_for()
    page.get_by_label("Earlier validation").click()
    assert text.inner_text() == "Once at 300"
    page.locator("#sample-step").press("Home")
    assert text.inner_text() == "Once at 100"
    assert "validation 1 of 4" in page.locator("#sample-text").inner_text()


def test_a_saved_chart_is_a_complete_picture(open_page, server):
    two_runs(server.folder)
    page = open_page(f"?run={RUN}")
    with page.expect_download() as saved:
        page.get_by_label("Save SVG: Loss").click()
    picture = Path(saved.value.path()).read_text()
    assert saved.value.suggested_filename == "loss.svg"
    assert picture.startswith("<svg xmlns=")
    assert "validation" in picture
    assert "var(" not in picture


def test_checkpoints_show_scores_with_error_bars(open_page, server):
    two_runs(server.folder)
    page = open_page(f"?run={RUN}")
    row = page.locator("#checkpoints tr", has_text="checkpoint_best.pt")
    row.get_by_text("25.0% (21.0–29.0%)").wait_for()
    assert page.locator("#score-charts svg path").count() >= 3


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
def test_every_view_is_accessible(open_page, server, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -r requirements-slow.txt")
    empty = open_page(scheme=scheme, width=width, ready="#empty")
    two_runs(server.folder)
    one = open_page(f"?run={RUN}", scheme=scheme, width=width)
    two = open_page(f"?run={RUN}&run={OTHER}&smooth=10", scheme=scheme, width=width)
    for number in (1, 2):
        server.folder.log(start(), begin(), step(1), run=f"run_{number}")
    four = open_page(f"?run={RUN}&run={OTHER}&run=run_1&run=run_2", scheme=scheme, width=width)
    four.locator("#cards table").wait_for()
    for page in (empty, one, two, four):
        violations = axe.Axe().run(page).response["violations"]
        assert not violations, json.dumps([(found["id"], found["nodes"][0]["html"]) for found in violations])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
