"""The chat page and the API's description in a real browser: what people do, by keyboard and by pointer."""

import json
import shutil
import threading

import pytest

from tests.running_server import TOKENIZER, RunningServer

pytestmark = pytest.mark.slow

VIEWS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-slow.txt")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser_path:
        pytest.skip("no browser is installed: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser_path, args=quiet)
        yield started
        started.close()


@pytest.fixture
def open_page(browser, server: RunningServer):
    """Open the page as a new visitor; the test fails if the page reports a problem or loads anything from elsewhere."""
    problems = []
    contexts = []

    def opened(path: str = "/", *, scheme: str = "light", width: int = 1280):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        page.on("request", lambda request: problems.append(request.url) if is_foreign(request, server) else None)
        page.goto(server.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(open_page):
    opened = open_page()
    opened.locator(".pane select option").first.wait_for(state="attached")
    return opened


def is_problem(message) -> bool:
    """Ignore the browser's own reports of refused requests, which the page shows in words."""
    return message.type in ("error", "warning") and "status of 400" not in message.text


def is_foreign(request, server: RunningServer) -> bool:
    return not request.url.startswith((server.url, "data:", "blob:"))


def finish(page):
    """Wait for the answers, and return those on the screen."""
    page.locator("#send:enabled").wait_for()
    return page.locator(".answer")


def ask(page, text: str):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    return finish(page)


def set_field(page, name: str, value: str):
    page.fill(f"#{name}", value)
    page.dispatch_event(f"#{name}", "change")


def choose(page, name: str, value: str):
    page.locator(f"input[name={name}][value={value}]").check(force=True)


def test_a_chat_by_keyboard_keeps_its_history(page):
    page.keyboard.type("Hello <b>you</b>")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and me")
    page.keyboard.press("Enter")
    assert finish(page).count() == 1
    assert page.locator(".question .body").inner_text() == "Hello <b>you</b>\nand me"
    page.keyboard.type("Again")
    with page.expect_request("**/v1/chat/completions") as request:
        page.keyboard.press("Enter")
    body = request.value.post_data_json
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert (body["max_tokens"], body["temperature"], body["truncation"]) == (200, 0.8, "auto")
    finish(page)


def test_enter_belongs_to_an_input_method_while_it_composes(page):
    page.fill("#prompt", "に")
    event = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    page.evaluate(f"document.getElementById('prompt').dispatchEvent({event})")
    assert page.locator(".question").count() == 0
    assert page.input_value("#prompt") == "に"


def test_a_long_chat_goes_on_and_says_what_was_left_out(page):
    set_field(page, "max_tokens", "60")
    for number in range(5):
        ask(page, f"This is question number {number}")
    assert page.locator(".answer .notice:visible").last.inner_text().endswith("no longer fit and were left out.")
    assert page.locator(".answer .danger:visible").count() == 0


def test_conversations_are_kept_searched_renamed_and_deleted(page):
    set_field(page, "max_tokens", "5")
    ask(page, "About whales")
    page.click("#new")
    ask(page, "About ships")
    page.reload()
    page.locator(".answer").wait_for()
    assert page.locator(".question .body").inner_text() == "About ships"
    assert page.locator(".conversation").all_inner_texts() == ["About ships", "About whales"]
    page.fill("#search", "whale")
    page.locator(".conversation").click()
    page.locator(".question .body", has_text="About whales").wait_for()
    page.get_by_label("Actions for About whales").click()
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("Sea mammals")
    page.keyboard.press("Enter")
    page.fill("#search", "")
    assert page.locator(".conversation").first.inner_text() == "Sea mammals"
    page.get_by_label("Actions for Sea mammals").click()
    page.get_by_role("button", name="Delete").click()
    page.locator("#delete-dialog .danger").click()
    page.locator(".conversation", has_text="Sea mammals").wait_for(state="detached")  # removed from the storage first
    page.reload()
    page.locator(".conversation").wait_for()
    assert page.locator(".conversation").all_inner_texts() == ["About ships"]


def test_a_conversation_is_exported_and_imported(page):
    set_field(page, "max_tokens", "5")
    ask(page, "About ships")
    page.get_by_label("Actions for About ships").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    exported = download.value.path()
    content = json.loads(exported.read_text())
    assert content["conversation"]["title"] == "About ships"
    assert len(content["tokens"][0]["tokens"]) == 5
    page.set_input_files("#import-file", exported)
    page.locator(".conversation").nth(1).wait_for()
    choose(page, "view", "tokens")
    assert page.locator(".tokens .token").count() == 5
    page.set_input_files("#import-file", {"name": "other.json", "mimeType": "application/json", "buffer": b"[1]"})
    page.locator("#problem", has_text="other.json is not a conversation exported by this page").wait_for()
    page.get_by_label("Actions for About ships").first.click()
    page.get_by_role("button", name="Delete").click()
    page.locator("#delete-dialog .danger").click()
    page.locator(".conversation").nth(1).wait_for(state="detached")
    page.get_by_label("Actions for About ships").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as Markdown").click()
    assert download.value.path().read_text().startswith("# About ships\n\n**Question**\n\nAbout ships\n\n**chatty**")


def test_edited_questions_and_new_answers_become_versions(page):
    set_field(page, "max_tokens", "8")
    first = ask(page, "One").last.locator(".body").inner_text()
    page.locator(".answer").get_by_role("button", name="Regenerate").click()
    finish(page)
    assert page.locator(".answer .versions .number").inner_text() == "2 of 2"
    page.get_by_label("Previous version of this answer").click()
    assert page.locator(".answer .body").inner_text() == first
    page.locator(".question").get_by_role("button", name="Edit").click()
    page.fill(".edit", "Two")
    page.keyboard.press("Enter")
    finish(page)
    assert page.locator(".question .body").inner_text() == "Two"
    page.get_by_label("Previous version of this question").focus()
    page.keyboard.press("Enter")
    assert page.locator(".question .body").inner_text() == "One"
    assert page.evaluate("document.activeElement.ariaLabel") == "Question"  # the focus stays where it was
    page.reload()
    page.locator(".answer").wait_for()
    assert page.locator(".question .versions .number").inner_text() == "1 of 2"


def test_another_token_is_chosen_by_keyboard_and_continued_exactly(page):
    set_field(page, "max_tokens", "20")
    set_field(page, "temperature", "0")
    ask(page, "Tokens")
    choose(page, "view", "tokens")
    page.locator(".tokens .token").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    card = page.locator("#token-card")
    assert card.locator("dt").all_inner_texts() == ["Probability", "Rank", "Entropy", "Token id"]
    assert card.locator(".alternative").count() == 10
    written = [int(token) for token in page.evaluate(WRITTEN_IDS)]
    with page.expect_request("**/v1/completions") as request:
        page.keyboard.press("Enter")
    finish(page)
    prompt = request.value.post_data_json["prompt"]
    question = TOKENIZER.encode("User: Tokens\nAssistant:", add_bos=True)
    assert prompt[: len(question) + 4] == [*question, *written[:4]]
    assert prompt[-1] != written[4]
    assert page.locator(".answer .versions .number").inner_text() == "2 of 2"
    assert [int(token) for token in page.evaluate(WRITTEN_IDS)][:5] == prompt[len(question) :]


# The ids of the newest answer's tokens, from the browser's storage.
WRITTEN_IDS = """async () => {
  const {loadConversations, loadTokens} = await import("/static/conversations.js");
  const {pathOf} = await import("/static/thread.js");
  const answer = pathOf((await loadConversations())[0].threads[0]).at(-1);
  return (await loadTokens(answer.id)).tokens.map((token) => token.id);
}"""


def test_alternatives_are_chosen_by_pointer(page):
    set_field(page, "max_tokens", "6")
    ask(page, "Tokens")
    choose(page, "view", "tokens")
    page.locator(".tokens .token").nth(2).hover()
    page.locator("#token-card .alternative:enabled").first.click()
    finish(page)
    assert page.locator(".answer .versions .number").inner_text() == "2 of 2"
    page.mouse.move(600, 20)
    page.locator("#token-card").wait_for(state="hidden")


def test_switching_checkpoint_and_mode_keeps_the_conversation(page):
    set_field(page, "max_tokens", "6")
    first = ask(page, "First").inner_text()
    page.select_option(".pane select", "base")
    assert page.locator("input[name=mode][value=chat]").is_disabled()
    assert ask(page, "Once upon").last.inner_text().startswith("Once upon")
    page.select_option(".pane select", "chatty")
    choose(page, "mode", "chat")
    with page.expect_request("**/v1/chat/completions") as request:
        answers = ask(page, "Second")
    assert [message["content"] for message in request.value.post_data_json["messages"][::2]] == ["First", "Second"]
    assert answers.count() == 3
    assert answers.first.locator(".body").inner_text() in first


def test_an_answer_cut_by_the_limit_continues(page):
    set_field(page, "max_tokens", "5")
    before = ask(page, "Hello").locator(".body").inner_text()
    page.get_by_role("button", name="Continue").click()
    answer = finish(page)
    assert "10 tokens" in answer.locator(".facts").inner_text()
    assert answer.locator(".body").inner_text().startswith(before.rstrip())


def test_stopping_keeps_what_was_written(page, server: RunningServer):
    batch, go_on, num_steps = server.engine.models["chatty"].batch, threading.Event(), iter(range(10**6))
    step = batch.step

    def pause_after_some():
        if next(num_steps) == 10:
            go_on.wait(timeout=60)
        return step()

    batch.step = pause_after_some
    page.fill("#prompt", "Hello")
    page.press("#prompt", "Enter")
    page.locator(".answer .facts", has_text="tokens").wait_for()
    page.keyboard.press("Escape")
    facts = finish(page).locator(".facts").inner_text()
    go_on.set()
    batch.step = step
    assert "ended by you" in facts


def test_tuned_and_base_checkpoints_side_by_side(page):
    set_field(page, "max_tokens", "20")
    ask(page, "First")
    page.click("#compare")
    assert page.locator(".pane").nth(1).locator("select").input_value() == "base"
    assert page.locator(".pane").nth(1).locator(".question .body").inner_text() == "First"
    page.fill("#prompt", "Why?")
    with page.expect_request("**/v1/chat/completions"), page.expect_request("**/v1/completions") as request:
        page.press("#prompt", "Enter")
    finish(page)
    assert request.value.post_data_json["prompt"] == "Why?"
    assert page.locator(".pane").nth(1).locator(".answer").last.inner_text().startswith("Why?")
    choose(page, "view", "tokens")
    for pane in range(2):
        assert page.locator(".pane").nth(pane).locator(".answer").last.locator(".token").count() >= 20
    page.click("#compare")
    assert page.locator(".pane").count() == 1


def test_an_error_is_shown_in_words(page):
    answer = ask(page, "x" * 2000)
    assert "context" in answer.locator(".danger").inner_text()
    answer.get_by_role("button", name="Try again").wait_for()


def test_a_missing_key_is_asked_for(make_server, browser):
    locked = make_server(api_key="secret")
    opened = browser.new_page()
    opened.goto(locked.url)
    opened.locator("#problem", has_text="requires an API key").wait_for()
    opened.keyboard.type("secret")
    opened.keyboard.press("Enter")
    opened.locator(".pane").wait_for()
    assert not opened.locator("#problem").is_visible()
    opened.goto(f"{locked.url}/docs")
    opened.locator(".opblock").first.wait_for()
    opened.close()


MARKDOWN = r"""async () => {
  const {renderMarkdown} = await import("/static/markdown.js");
  const box = document.createElement("div");
  document.body.append(box);
  const text = `# Title\n\n**bold** <img src=x onerror="window.hacked = 1"> [link](javascript:window.hacked=1)\n\n`
    + "<script>window.hacked = 1</scr" + "ipt>\n\n```Python\ndef f(x):\n    return x + 1\n```\n\n| a |\n|---|\n| b |\n";
  renderMarkdown(box, text.slice(0, 60));
  const first = box.firstElementChild;
  for (let end = 60; end <= text.length; end++) renderMarkdown(box, text.slice(0, end));
  const found = {
    same: first === box.firstElementChild, html: box.innerHTML, hacked: window.hacked ?? null,
    keywords: [...box.querySelectorAll(".hljs-keyword")].map((word) => word.textContent),
    buttons: box.querySelectorAll(".code button").length, cells: box.querySelectorAll("td").length,
  };
  box.remove();
  return found;
}"""


def test_markdown_grows_in_place_and_cannot_run_anything(page):
    found = page.evaluate(MARKDOWN)
    assert found["same"]
    assert found["keywords"] == ["def", "return"]
    assert (found["buttons"], found["cells"], found["hacked"]) == (1, 1, None)
    for dangerous in ("<img", "<script", "javascript:"):
        assert dangerous not in found["html"]


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
def test_no_view_has_accessibility_violations(open_page, scheme, width):
    pytest.importorskip("axe_playwright_python", reason="pip install -r requirements-slow.txt")
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(scheme=scheme, width=width)
    page.locator(".pane").wait_for()
    found = {}

    def examine(view: str) -> None:
        page.wait_for_timeout(50)
        violations = Axe().run(page).response["violations"]
        if violations:
            found[view] = [(rule["id"], [node["html"][:80] for node in rule["nodes"]][:3]) for rule in violations]

    def open_panel(name: str) -> None:
        if page.locator(f"#open-{name}").is_visible() and not page.locator(f"#{name}").is_visible():
            page.click(f"#open-{name}")

    examine("empty")
    open_panel("settings")
    set_field(page, "max_tokens", "40")
    examine("settings")
    page.click("#close-settings")
    ask(page, "Hello")
    examine("chat")
    choose(page, "view", "tokens")
    page.locator(".tokens .token").nth(3).focus()
    examine("tokens")
    choose(page, "scale", "entropy")
    examine("entropy")
    page.click("#compare")
    ask(page, "And now?")
    examine("comparison of tokens")
    choose(page, "view", "text")
    examine("comparison")
    page.locator(".question").first.get_by_role("button", name="Edit").click()
    examine("editing")
    page.keyboard.press("Escape")
    open_panel("sidebar")
    examine("list")
    page.get_by_label("Actions for Hello").click()
    examine("menu")
    page.get_by_role("button", name="Delete").click()
    examine("dialog")
    assert found == {}


def test_the_page_fits_a_phone(open_page):
    page = open_page(width=390)
    page.locator(".pane").wait_for()
    ask(page, "Hello, " + "long " * 20)
    choose(page, "view", "tokens")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.locator("#settings").is_visible()
    assert not page.locator("#sidebar").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_description_of_the_api_works_offline(open_page, scheme):
    pytest.importorskip("axe_playwright_python", reason="pip install -r requirements-slow.txt")
    from axe_playwright_python.sync_playwright import Axe

    page = open_page("/docs", scheme=scheme)
    page.locator(".opblock", has_text="/v1/chat/completions").first.wait_for()
    page.locator("[role=banner]").wait_for()
    assert [rule["id"] for rule in Axe().run(page).response["violations"]] == []
