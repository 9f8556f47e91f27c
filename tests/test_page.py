"""The chat page in a real browser, used by keyboard."""

import shutil

import pytest

from tests.running_server import RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture
def page():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-slow.txt")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no browser is installed: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=quiet)
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        problems = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        yield opened
        browser.close()
    assert not problems


def is_problem(message) -> bool:
    """Ignore the browser's own reports of refused requests, which the page shows in words."""
    return message.type == "error" and "status of 400" not in message.text


def written(page, pane: int) -> str:
    page.locator(".pane").nth(pane).locator(".facts").last.get_by_text("tokens").wait_for()
    return page.locator(".pane").nth(pane).locator(".said").last.inner_text()


def test_a_chat_by_keyboard_keeps_its_history(page, server: RunningServer):
    page.goto(server.url)
    page.wait_for_selector(".pane")
    page.keyboard.type("Hello <b>you</b>")
    page.keyboard.press("Control+Enter")
    assert written(page, 0)
    assert page.locator(".said.user").first.inner_text() == "Hello <b>you</b>"
    page.locator("#send:enabled").wait_for()
    page.keyboard.type("Again")
    with page.expect_request("**/v1/chat/completions") as request:
        page.keyboard.press("Control+Enter")
    roles = [message["role"] for message in request.value.post_data_json["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_two_checkpoints_side_by_side_continue_one_text(page, server: RunningServer):
    page.goto(server.url)
    page.wait_for_selector(".pane")
    page.select_option("#model-0", "base")
    page.select_option("#model-1", "chatty")
    page.locator("input[value=completion]").check(force=True)
    page.fill("#max_tokens", "20")
    page.fill("#seed", "1")
    page.fill("#prompt", "Once")
    page.keyboard.press("Control+Enter")
    texts = [written(page, 0), written(page, 1)]
    assert all(text.startswith("Once") for text in texts)
    assert texts[0] != texts[1]


def test_tuned_and_base_models_get_the_right_prompt_format(page, server: RunningServer):
    page.goto(server.url)
    page.wait_for_selector(".pane")
    page.select_option("#model-1", "base")
    page.fill("#prompt", "Why?")
    with page.expect_request("**/v1/chat/completions"), page.expect_request("**/v1/completions"):
        page.keyboard.press("Control+Enter")
    assert written(page, 1).startswith("Why?")
    assert written(page, 0)


def test_an_error_is_shown_in_words(page, server: RunningServer):
    page.goto(server.url)
    page.wait_for_selector(".pane")
    page.fill("#prompt", "x" * 2000)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".said.error")
    assert "context" in page.locator(".said.error").inner_text()
