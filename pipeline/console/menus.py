"""The menus of `Inference.py`: mode, run, checkpoint, parameters, prompt. ``q`` quits anywhere."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.run_folders import Run, list_runs
from pipeline.generation.settings import GenerationSettings
from pipeline.quickstart_hint import or_quickstart
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.terminal import ask, counted, format_bytes, say, styled, visible


class Quit(Exception):
    """The user typed q."""


def ask_or_quit(question: str, *, history: str = "menu", complete: Callable[[str], Iterable[str]] | None = None) -> str:
    answer = ask(question, history=history, complete=complete)
    if answer.lower() in ("q", "quit", "exit"):
        raise Quit
    return answer


def read_prompt(question: str, *, complete: Callable[[str], Iterable[str]] | None = None) -> str | None:
    """Ask for a prompt; None if the user types q or the input ends.

    Raises:
        PipelineError: the input is not valid UTF-8.
    """
    try:
        return ask_or_quit(styled(question, "bold"), history="prompt", complete=complete)
    except (Quit, UsageError):
        return None
    except UnicodeDecodeError:
        raise PipelineError("the prompt is not valid UTF-8") from None


def print_mistake(error: PipelineError) -> None:
    """Print a mistake in a prompt. Mistakes in the command line are raised, because another prompt cannot fix them."""
    if isinstance(error, UsageError):
        raise error
    say(styled(visible(str(error)), "red"))


def choose(question: str, count: int, *, default: int | None = None, names: Sequence[str] = ()) -> int:
    """Ask until the user enters a number from 1 to `count`, or one of the options' `names`."""
    hint = "" if default is None else f" [{default}]"
    while True:
        answer = ask_or_quit(f"{question} (1-{count}, q to quit){hint}: ", complete=lambda before: names)
        if not answer and default is not None:
            return default
        if answer.isdecimal() and 1 <= int(answer) <= count:
            return int(answer)
        if answer in names:
            return names.index(answer) + 1
        print(f"{answer!r} is not a number from 1 to {count}")


def choose_of(title: str, question: str, options: Sequence[str]) -> int:
    """Ask for one of `options` and return its number; Enter takes the first."""
    print(styled(f"\n{title}", "bold"))
    for number, option in enumerate(options, 1):
        print(f"  {number}. {option}")
    return choose(question, len(options), default=1)


def choose_run(checkpoint_dir: Path) -> Run:
    """Ask for a training run; the newest is marked. Skipped if all checkpoints are directly in the folder."""
    runs = _print_runs(checkpoint_dir)
    if len(runs) == 1 and runs[0].directory == checkpoint_dir:
        return runs[0]
    return runs[choose("Run", len(runs), default=1, names=[run.directory.name for run in runs]) - 1]


def choose_runs(checkpoint_dir: Path) -> list[Run]:
    """Ask for one or several training runs: ``2``, ``1,3`` or ``all``."""
    runs = _print_runs(checkpoint_dir)
    if len(runs) == 1:
        return runs
    names = [run.directory.name for run in runs]
    return [runs[number - 1] for number in choose_several("Runs", names, default="1")]


def _print_runs(checkpoint_dir: Path) -> list[Run]:
    runs = list_runs(checkpoint_dir)
    if not runs:
        remedy = f"train a model first: python3 main.py train{or_quickstart(checkpoint_dir)}"
        raise PipelineError(f"no checkpoints found in {checkpoint_dir}; {remedy}")
    if len(runs) > 1 or runs[0].directory != checkpoint_dir:
        print(styled("\nTraining runs", "bold"))
        for number, run in enumerate(runs, 1):
            say("  " + _run_line(number, run, checkpoint_dir, is_newest=number == 1))
    return runs


def _run_line(number: int, run: Run, checkpoint_dir: Path, *, is_newest: bool) -> str:
    folder = "(directly in the folder)" if run.directory == checkpoint_dir else run.directory.name
    count = len(run.checkpoints)
    parts = [f"{number}. {visible(folder)}", counted(count, "checkpoint"), _moment(run.modified)]
    line = "  ".join([*parts, _own_name(run.newest)]).rstrip()
    return styled(f"{line}  ← newest", "bold", "green") if is_newest else line


def _own_name(path: Path) -> str:
    try:
        return visible(read_checkpoint(path, verify=False).get("name") or "")
    except PipelineError:  # choosing it prints the full error
        return "(unreadable)"


def choose_checkpoint(run: Run) -> Path:
    _print_checkpoints([run])
    names = [_kind(path) for path in run.checkpoints]
    return run.checkpoints[choose("Checkpoint", len(names), default=_best_of(run) + 1, names=names) - 1]


def choose_checkpoints(runs: Sequence[Run]) -> list[Path]:
    """Ask for several checkpoints: ``1,3,5`` or ``all``. Enter takes all of one run, or the best of each."""
    _print_checkpoints(runs)
    paths = [path for run in runs for path in run.checkpoints]
    best = [str(paths.index(run.checkpoints[_best_of(run)]) + 1) for run in runs]
    names = [_kind(path) for path in paths] if len(runs) == 1 else [_full_name(path) for path in paths]
    default = "all" if len(runs) == 1 else ",".join(best)
    return [paths[number - 1] for number in choose_several("Checkpoints", names, default=default)]


def choose_several(question: str, names: Sequence[str], *, default: str) -> list[int]:
    """Ask for numbers or names, separated by commas, or ``all``."""
    count = len(names)
    while True:
        answer = ask_or_quit(
            f"{question} (1-{count}, such as 1,3, or all; q to quit) [{default}]: ",
            complete=lambda before: [*names, "all"],
        )
        numbers = parse_numbers(answer or default, count, names=names)
        if numbers:
            return numbers
        print(f"{answer!r} is not a list of numbers from 1 to {count}")


def _best_of(run: Run) -> int:
    """The index of the best checkpoint, or of the newest if no file is called so."""
    return next((index for index, path in enumerate(run.checkpoints) if path.stem.endswith("_best")), 0)


def _kind(path: Path) -> str:
    """``best``, ``latest``, ``step_500``"""
    return path.stem.removeprefix("checkpoint_")


def _full_name(path: Path) -> str:
    return f"{path.parent.name}/{_kind(path)}"


def parse_numbers(answer: str, count: int, *, names: Sequence[str] = ()) -> list[int]:
    """``1,3,5``, names, or ``all`` → numbers without duplicates; empty if it is none of these."""
    if answer.strip().lower() == "all":
        return list(range(1, count + 1))
    parts = [part.strip() for part in answer.replace(" ", ",").split(",") if part.strip()]
    parts = [str(names.index(part) + 1) if part in names else part for part in parts]
    if not all(part.isdecimal() and 1 <= int(part) <= count for part in parts):
        return []
    return list(dict.fromkeys(map(int, parts)))


def _print_checkpoints(runs: Sequence[Run]) -> None:
    number = 0
    for run in runs:
        print(styled(f"\nCheckpoints of {visible(run.directory.name)}", "bold"))
        for path in run.checkpoints:
            number += 1
            print("  " + _checkpoint_line(number, path))


def _checkpoint_line(number: int, path: Path) -> str:
    colour = "green" if path.stem.endswith("_best") else "blue" if path.stem.endswith("_latest") else ""
    note = {"green": "  ← best validation loss", "blue": "  ← most recent"}.get(colour, "")
    size, moment = format_bytes(path.stat().st_size), _moment(path.stat().st_mtime)
    return styled(f"{number}. {visible(path.name)}  {size}  {moment}{note}", *filter(None, [colour]))


def _moment(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp):%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class Parameter:
    name: str
    question: str
    meaning: str
    read: Callable[[str], object]


PARAMETERS = (
    Parameter("max_length", "Maximum length in new tokens", "maximum number of new tokens", int),
    Parameter("temperature", "Temperature", "0: always the most likely token", float),
    Parameter("top_k", "Top-k", "only the K most likely tokens; 0: off", int),
    Parameter("top_p", "Top-p", "only tokens that add up to this probability; 1: off", float),
    Parameter("min_p", "Min-p", "only tokens this likely, relative to the top; 0: off", float),
    Parameter("repetition_penalty", "Repetition penalty", "above 1: less repetition; 1: off", float),
    Parameter("seed", "Seed", "the same seed, the same text; none: a new one each time", int),
)


def choose_settings(default: GenerationSettings) -> GenerationSettings:
    """Ask for parameters: the defaults, or the user's own, each until it is valid. Enter keeps the value shown."""
    shown = ", ".join(f"{parameter.name} {getattr(default, parameter.name)}" for parameter in PARAMETERS[:4])
    say(f"  1. defaults ({shown})", "  2. custom")
    if choose("Parameters", 2, default=1) == 1:
        return default
    settings = default
    for parameter in PARAMETERS:
        settings = _ask_parameter(parameter, settings)
    return settings


def _ask_parameter(parameter: Parameter, settings: GenerationSettings) -> GenerationSettings:
    current = getattr(settings, parameter.name)
    while True:
        answer = ask_or_quit(f"  {parameter.question} ({parameter.meaning}) [{'' if current is None else current}]: ")
        if not answer:
            return settings
        try:
            return _with(settings, parameter, answer)
        except PipelineError as error:
            print(f"  {error}")


def change_settings(settings: GenerationSettings, assignments: str) -> GenerationSettings:
    """`settings` with the changes of ``temperature=0.7 top_k=0``.

    Raises:
        PipelineError: a name is unknown, or a value is not allowed.
    """
    known = {parameter.name: parameter for parameter in PARAMETERS}
    for assignment in re.sub(r"\s*=\s*", "=", assignments).replace(",", " ").split():
        name, equals, value = assignment.partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise PipelineError(f"unknown parameter {name}{did_you_mean(name, known)}; known: {', '.join(known)}")
        if not equals or not value:
            raise PipelineError(f"{name} has no value; expected {name}=VALUE")
        settings = _with(settings, known[name], value)
    return settings


def _with(settings: GenerationSettings, parameter: Parameter, text: str) -> GenerationSettings:
    if parameter.name == "seed" and text.lower() == "none":
        return replace(settings, seed=None)
    try:
        value = parameter.read(text)
    except ValueError:
        kind = "an integer" if parameter.read is int else "a number"
        raise PipelineError(f"{parameter.name} is {text!r}; expected {kind}") from None
    changes: dict[str, Any] = {parameter.name: value}
    return replace(settings, **changes)


def confirm(question: str) -> None:
    """Raise Quit unless the user answers yes."""
    if not ask_or_quit(f"{question} [y/N]: ").lower().startswith("y"):
        raise Quit
