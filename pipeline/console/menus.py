"""The menus of `Inference.py`: mode, run, checkpoint, parameters, prompt. ``q`` quits anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.run_folders import Run, list_runs
from pipeline.generation.settings import GenerationSettings
from pipeline.quickstart_hint import or_quickstart
from utils.errors import PipelineError, UsageError
from utils.terminal import ask, format_bytes, styled, visible


class Quit(Exception):
    """The user typed q."""


def ask_or_quit(question: str) -> str:
    answer = ask(question)
    if answer.lower() in ("q", "quit", "exit"):
        raise Quit
    return answer


def read_prompt(question: str) -> str | None:
    """Ask for a prompt; None if the user types q or the input ends.

    Raises:
        PipelineError: the input is not valid UTF-8.
    """
    try:
        return ask_or_quit(styled(question, "bold"))
    except (Quit, UsageError):
        return None
    except UnicodeDecodeError:
        raise PipelineError("the prompt is not valid UTF-8") from None


def print_mistake(error: PipelineError) -> None:
    """Print a mistake in a prompt. Mistakes in the command line are raised, because another prompt cannot fix them."""
    if isinstance(error, UsageError):
        raise error
    print(styled(visible(str(error)), "red"))


def choose(question: str, count: int, *, default: int | None = None) -> int:
    """Ask until the user enters a number from 1 to `count`."""
    hint = "" if default is None else f" [{default}]"
    while True:
        answer = ask_or_quit(f"{question} (1-{count}, q to quit){hint}: ")
        if not answer and default is not None:
            return default
        if answer.isdecimal() and 1 <= int(answer) <= count:
            return int(answer)
        print(f"{answer!r} is not a number from 1 to {count}")


def choose_of(title: str, question: str, options: Sequence[str]) -> int:
    """Ask for one of `options` and return its number; Enter takes the first."""
    print(styled(f"\n{title}", "bold"))
    for number, option in enumerate(options, 1):
        print(f"  {number}. {option}")
    return choose(question, len(options), default=1)


def choose_run(checkpoint_dir: Path) -> Run:
    """Ask for a training run; the newest is marked. Skipped if all checkpoints are directly in the folder."""
    runs = list_runs(checkpoint_dir)
    if not runs:
        remedy = f"train a model first: python3 main.py train{or_quickstart(checkpoint_dir)}"
        raise PipelineError(f"no checkpoints found in {checkpoint_dir}; {remedy}")
    if len(runs) == 1 and runs[0].directory == checkpoint_dir:
        return runs[0]
    print(styled("\nTraining runs", "bold"))
    for number, run in enumerate(runs, 1):
        print("  " + _run_line(number, run, checkpoint_dir, is_newest=number == 1))
    return runs[choose("Run", len(runs), default=1) - 1]


def _run_line(number: int, run: Run, checkpoint_dir: Path, *, is_newest: bool) -> str:
    folder = "(directly in the folder)" if run.directory == checkpoint_dir else run.directory.name
    count = len(run.checkpoints)
    parts = [f"{number}. {visible(folder)}", f"{count} checkpoint{'s' if count > 1 else ''}", _moment(run.modified)]
    line = "  ".join([*parts, _own_name(run.newest)]).rstrip()
    return styled(f"{line}  ← newest", "bold", "green") if is_newest else line


def _own_name(path: Path) -> str:
    try:
        return visible(read_checkpoint(path, verify=False).get("name") or "")
    except PipelineError:  # choosing it prints the full error
        return "(unreadable)"


def choose_checkpoint(run: Run) -> Path:
    _print_checkpoints(run)
    default = 1 + next((i for i, path in enumerate(run.checkpoints) if path.stem.endswith("_best")), 0)
    return run.checkpoints[choose("Checkpoint", len(run.checkpoints), default=default) - 1]


def choose_checkpoints(run: Run) -> list[Path]:
    """Ask for several options: ``1,3,5`` or ``all``."""
    _print_checkpoints(run)
    count = len(run.checkpoints)
    while True:
        answer = ask_or_quit(f"Checkpoints (1-{count}, such as 1,3,5, or all; q to quit) [all]: ")
        numbers = parse_numbers(answer or "all", count)
        if numbers:
            return [run.checkpoints[number - 1] for number in numbers]
        print(f"{answer!r} is not a list of numbers from 1 to {count}")


def parse_numbers(answer: str, count: int) -> list[int]:
    """``1,3,5`` or ``all`` → numbers without duplicates; empty if it is neither."""
    if answer.strip().lower() == "all":
        return list(range(1, count + 1))
    parts = [part.strip() for part in answer.replace(" ", ",").split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= count for part in parts):
        return []
    return list(dict.fromkeys(map(int, parts)))


def _print_checkpoints(run: Run) -> None:
    print(styled(f"\nCheckpoints of {visible(run.directory.name)}", "bold"))
    for number, path in enumerate(run.checkpoints, 1):
        colour = "green" if path.stem.endswith("_best") else "blue" if path.stem.endswith("_latest") else ""
        note = {"green": "  ← best validation loss", "blue": "  ← most recent"}.get(colour, "")
        size, moment = format_bytes(path.stat().st_size), _moment(path.stat().st_mtime)
        print("  " + styled(f"{number}. {visible(path.name)}  {size}  {moment}{note}", *filter(None, [colour])))


def _moment(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp):%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class _Parameter:
    name: str
    question: str
    read: Callable[[str], object]


_PARAMETERS = (
    _Parameter("max_length", "Maximum length in new tokens", int),
    _Parameter("temperature", "Temperature (0: always the most likely token)", float),
    _Parameter("top_k", "Top-k (0: off)", int),
    _Parameter("top_p", "Top-p (1: off)", float),
    _Parameter("min_p", "Min-p (0: off)", float),
    _Parameter("repetition_penalty", "Repetition penalty (1: off)", float),
    _Parameter("seed", "Seed (empty: a different text each time)", int),
)


def choose_settings(default: GenerationSettings) -> GenerationSettings:
    """Ask for parameters: the defaults, or the user's own, each until it is valid. Enter keeps the value shown."""
    shown = ", ".join(f"{parameter.name} {getattr(default, parameter.name)}" for parameter in _PARAMETERS[:4])
    print(f"Parameters: 1. defaults ({shown})  2. custom")
    if choose("Parameters", 2, default=1) == 1:
        return default
    settings = default
    for parameter in _PARAMETERS:
        settings = _ask_parameter(parameter, settings)
    return settings


def _ask_parameter(parameter: _Parameter, settings: GenerationSettings) -> GenerationSettings:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    current = values[parameter.name]
    while True:
        answer = ask_or_quit(f"  {parameter.question} [{'' if current is None else current}]: ")
        if not answer:
            return settings
        try:
            return GenerationSettings(**values | {parameter.name: parameter.read(answer)})
        except (ValueError, PipelineError) as error:
            print(f"  {error if isinstance(error, PipelineError) else f'{answer!r} is not a number'}")


def confirm(question: str) -> None:
    """Raise Quit unless the user answers yes."""
    if not ask_or_quit(f"{question} [y/N]: ").lower().startswith("y"):
        raise Quit
