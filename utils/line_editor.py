"""Edit a line in the terminal with prompt_toolkit: history, completion with Tab, pasted lines kept together.

line = edit_line("Prompt: ", history="prompts", complete=lambda text: ["/help", "/save"])

The history is kept in the user's state folder, readable only by the user, and limited to the newest entries.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from utils.files import temporary_path

KEPT_ENTRIES = 1000

Complete = Callable[[str], Iterable[str]]  # the text before the cursor → candidates for its last word


def edit_line(question: str, *, history: str, complete: Complete | None = None) -> str:
    """One answer, which has several lines if they were pasted or broken with Alt-Enter.

    Raises:
        EOFError: Ctrl-D on an empty line.
        KeyboardInterrupt: Ctrl-C.
    """
    *above, last = question.split("\n")
    for line in above:
        print(line)
    completer = _Words(complete) if complete else None
    return _session(history).prompt(ANSI(last), completer=completer, complete_style=CompleteStyle.READLINE_LIKE)


def history_file(name: str) -> Path:
    """``~/.local/state/language-model-pipeline/NAME_history``, or in ``$XDG_STATE_HOME``."""
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "language-model-pipeline" / f"{name}_history"


class _Words(Completer):
    def __init__(self, complete: Complete) -> None:
        self.complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        word = before[max(before.rfind(" "), before.rfind(","), before.rfind("\n")) + 1 :]
        for candidate in self.complete(before):
            if candidate.startswith(word):
                yield Completion(candidate, start_position=-len(word))


@cache
def _session(history: str) -> "PromptSession[str]":
    return PromptSession(history=_history(history), key_bindings=_keys(), output=_output(), complete_while_typing=False)


def _output() -> Output:
    output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
    output.enable_cpr = False  # asking for the cursor's position is of no use here, and some terminals do not answer
    return output


def _history(name: str) -> History:
    """The history on disk, or in memory if that cannot be written."""
    path = history_file(name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
        trim_history(path)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def trim_history(path: Path) -> None:
    """Keep the newest `KEPT_ENTRIES` of a history file. It is replaced as a whole, and stays private."""
    lines = path.read_bytes().splitlines(keepends=True)
    starts = [index for index, line in enumerate(lines) if line.startswith(b"#")]  # the lines of an entry begin with +
    if len(starts) <= KEPT_ENTRIES:
        return
    temporary = temporary_path(path)
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines([b"\n", *lines[starts[-KEPT_ENTRIES] :]])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _keys() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
