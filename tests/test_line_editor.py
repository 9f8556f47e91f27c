"""The prompts in a terminal: pasted lines, completion, and a history that only the user can read."""

import stat

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from utils import line_editor
from utils.line_editor import edit_line, history_file

PASTED = "\x1b[200~first\nsecond\x1b[201~"


@pytest.fixture
def type_keys(tmp_path, monkeypatch):
    """Call `edit_line` with the keys that the user presses."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(line_editor, "_output", DummyOutput)

    def press(keys: str, **options) -> str:
        line_editor._session.cache_clear()
        with create_pipe_input() as keyboard, create_app_session(input=keyboard):
            keyboard.send_text(keys)
            return edit_line("? ", history="test", **options)

    return press


def test_pasted_lines_are_one_answer(type_keys):
    assert type_keys(f"{PASTED} line\r") == "first\nsecond line"
    assert type_keys("one\x1b\rtwo\r") == "one\ntwo"


def test_tab_completes_the_last_word(type_keys):
    assert type_keys("/settings te\t0.5\r", complete=lambda before: ["temperature=", "top_k="]) == (
        "/settings temperature=0.5"
    )
    assert type_keys("run_a,ru\t\r", complete=lambda before: ["run_b"]) == "run_a,run_b"


def test_history_is_kept_and_private(type_keys):
    type_keys("the cat\r")
    assert type_keys("\x1b[A\r") == "the cat"
    assert stat.S_IMODE(history_file("test").stat().st_mode) == 0o600


def test_history_keeps_only_the_newest_entries(type_keys, monkeypatch):
    monkeypatch.setattr(line_editor, "KEPT_ENTRIES", 3)
    for text in ("one", "two", PASTED, "four", "five"):
        type_keys(f"{text}\r")
    type_keys("six\r")
    path = history_file("test")
    assert [line for line in path.read_text().splitlines() if line.startswith("+")] == [
        *("+first", "+second", "+four", "+five", "+six"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_a_writable_folder_nothing_is_kept(type_keys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert type_keys("the cat\r") == "the cat"


@pytest.mark.parametrize(("key", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_ctrl_c_and_ctrl_d_are_reported(type_keys, key, error):
    with pytest.raises(error):
        type_keys(key)
