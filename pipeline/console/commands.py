"""What can be typed at a prompt besides text: /help, /clear, /system, /settings, /save, /quit.

session = Session(settings, [writer])
text = session.next_text("Prompt: ")     # carries out commands; None: the user leaves
session.turns.append(Turn(text, [("run_2026_01_01_10_00", answer)]))
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.console.menus import PARAMETERS, change_settings, print_mistake, read_prompt
from pipeline.console.streaming_output import Writer
from pipeline.console.system_message import set_system_message
from pipeline.formats.chat_template import Message
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError, did_you_mean
from utils.terminal import format_table, say, styled, visible

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)  # /usr/bin is text


class Turn(NamedTuple):
    """A prompt and the text of each model, by name."""

    prompt: str
    texts: Sequence[tuple[str, str]]


@dataclass
class Session:
    """The settings, the models and the conversation.

    `messages` is what a chat sends along with the next question, besides the system message.
    """

    settings: GenerationSettings
    writers: Sequence[Writer] = ()
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def next_text(self, question: str) -> str | None:
        """Ask for the next text, and carry out the commands before it; None if the user leaves.

        Raises:
            PipelineError: the input is not valid UTF-8.
        """
        while True:
            text = read_prompt(question, complete=complete_command)
            command = _COMMAND.fullmatch(text or "")
            if text is None or (command and command[1] in ("quit", "exit", "bye")):
                return None
            if not command:
                return text.removeprefix("/") if text.startswith("//") else text
            try:
                self.carry_out(command[1], (command[2] or "").strip())
            except PipelineError as error:
                print_mistake(error)

    def carry_out(self, name: str, argument: str) -> None:
        """Run the command ``/name argument``; print the list of commands if there is no such command.

        Raises:
            PipelineError: it cannot be done.
        """
        action = _ACTIONS.get(name)
        if action:
            action(self, argument)
        else:
            print(styled(f"unknown command /{name}{did_you_mean(name, _ACTIONS)}", "yellow"))
            print(help_text())

    def clear(self, argument: str) -> None:
        self.turns.clear()
        self.messages.clear()
        print("started a new conversation")

    def set_system(self, argument: str) -> None:
        if argument:
            set_system_message(self.writers, "" if argument == "none" else argument)
        system = next((writer.system for writer in self.writers), "")
        say(f"system message: {visible(system)}" if system else "no system message; set one: /system TEXT")

    def change(self, argument: str) -> None:
        if argument:
            self.settings = change_settings(self.settings, argument)
        say(settings_text(self.settings))

    def save(self, argument: str) -> None:
        if not self.turns:
            raise PipelineError("there is nothing to save yet; enter a prompt first")
        path = Path(argument or f"conversation_{datetime.now():%Y_%m_%d_%H_%M_%S}.md").expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(markdown(self.turns))
        except FileExistsError:
            raise PipelineError(f"{path} already exists; choose another name: /save FILE") from None
        except OSError as error:
            raise PipelineError(f"{path} cannot be written: {error.strerror}; choose another: /save FILE") from None
        say(f"saved as {path}")


def markdown(turns: Sequence[Turn]) -> str:
    """The conversation with a heading for each text."""
    sections = []
    for turn in turns:
        sections.append(f"## Prompt\n\n{turn.prompt}\n")
        sections += [f"## {name}\n\n{text.strip()}\n" for name, text in turn.texts]
    return "\n".join(sections)


def settings_text(settings: GenerationSettings) -> str:
    """The parameters with their values and meanings."""
    rows = [("parameter", "value", "")]
    for parameter in PARAMETERS:
        value = getattr(settings, parameter.name)
        rows.append((parameter.name, "none" if value is None else str(value), parameter.meaning))
    return f"{format_table(rows, right=[1])}\nchange them: /settings temperature=0.7 top_k=0"


def help_text() -> str:
    lines = [f"  {styled(f'{usage:<24}', 'bold')} {meaning}" for usage, meaning in _HELP]
    return "\n".join(lines)


def complete_command(before: str) -> list[str]:
    """The commands, or after /settings the parameters."""
    if before.startswith("/settings "):
        return [f"{parameter.name}=" for parameter in PARAMETERS]
    return [f"/{name}" for name in [*_ACTIONS, "quit"]] if before.startswith("/") and " " not in before else []


def _show_help(session: Session, argument: str) -> None:
    print(help_text())


_HELP = (
    ("/help", "this list"),
    ("/clear", "start a new conversation (also /new)"),
    ("/system TEXT", "set the system message (none: remove it)"),
    ("/settings", "show the parameters"),
    ("/settings NAME=VALUE …", "change them, for example temperature=0.7"),
    ("/save [FILE]", "write the conversation to a Markdown file"),
    ("/quit", "leave (also q, Ctrl-D and Ctrl-C)"),
    ("//…", "a text that starts with a slash"),
    ("Ctrl-C", "stop a text while it is being written"),
    ("Up, Down, Ctrl-R", "earlier prompts; search them"),
    ("Alt-Enter", "a line break; pasted lines stay together"),
)
_ACTIONS: dict[str, Callable[[Session, str], None]] = {
    "help": _show_help,
    "clear": Session.clear,
    "new": Session.clear,
    "system": Session.set_system,
    "settings": Session.change,
    "save": Session.save,
}
