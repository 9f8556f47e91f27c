"""Compare several models on one prompt: memory needed, texts side by side, speeds."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.console.commands import Session, Turn
from pipeline.console.menus import choose_settings, print_mistake
from pipeline.console.streaming_output import Statistics, Writer
from pipeline.formats.checkpoint import read_checkpoint
from pipeline.generation.settings import GenerationSettings
from utils.arithmetic import ceil_div
from utils.devices import choose_dtype, free_memory, resolve_device
from utils.errors import PipelineError
from utils.terminal import format_bytes, format_seconds, format_table, say, styled, terminal_width, visible
from utils.text_layout import pad, shorten, wrap

_LEAST_WIDTH = 30  # narrower columns are stacked instead
_GAP = " │ "


@dataclass(frozen=True)
class Result:
    """The text of one model."""

    name: str
    path: Path
    text: str
    statistics: Statistics

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name, "checkpoint": str(self.path), "text": self.text, **self.statistics.to_dict()}


def memory_needed(paths: Sequence[Path], *, dtype: torch.dtype, quantize: str) -> int:
    """The memory in bytes that the weights of these checkpoints need."""
    size = 1 if quantize == "int8" else dtype.itemsize
    return sum(tensor.numel() * size for path in paths for tensor in read_checkpoint(path)["model"].values())


def memory_report(
    paths: Sequence[Path], *, device: str, dtype: str = "auto", quantize: str = "none"
) -> tuple[str, bool]:
    """A line about needed and free memory, and whether the models fit with a fifth to spare."""
    target = resolve_device(device)
    needed = memory_needed(paths, dtype=choose_dtype(dtype, target), quantize=quantize)
    free = free_memory(target)
    line = f"{len(paths)} models need {format_bytes(needed)}; {format_bytes(free)} free on {target.type}"
    return line, needed * 1.2 <= free


def run_comparison(writers: Sequence[Writer], default: GenerationSettings, *, asks_settings: bool) -> None:
    """Send every prompt to all models until the user quits.

    Args:
        asks_settings: ask for the parameters once, after the first prompt; later, /settings changes them.
    """
    for writer in writers:
        say(writer.loaded.summary())
    say("Each model gets your text. /help lists the commands; q or Ctrl-D quits.")
    session = Session(default, writers)
    while True:
        try:
            prompt = session.next_text("\nPrompt for all: ")
            if prompt is None:
                return
            check_all(writers, prompt, session.settings)
            if asks_settings:
                session.settings = choose_settings(session.settings)
                asks_settings = False
            results = compare(writers, prompt, session.settings, may_stop=True)
            show(results)
            session.turns.append(Turn(prompt, [(result.name, result.text) for result in results]))
        except PipelineError as error:
            print_mistake(error)


def check_all(writers: Sequence[Writer], prompt: str, settings: GenerationSettings) -> None:
    for writer in writers:
        writer.check(writer.prompt_ids(prompt), settings)


def compare(
    writers: Sequence[Writer], prompt: str, settings: GenerationSettings, *, may_stop: bool = False
) -> list[Result]:
    """Each model's continuation of `prompt`; fine-tuned models get it in their chat template.

    The models run one after another, so that their speeds can be compared.

    Args:
        may_stop: Ctrl-C ends the text and leaves out the models after it, instead of ending the program.
    """
    results: list[Result] = []
    for number, writer in enumerate(writers, 1):
        _progress(f"{number}/{len(writers)} {visible(writer.loaded.name)} …")
        pieces, statistics = writer.collect(writer.prompt_ids(prompt), settings, may_stop=may_stop)
        results.append(Result(writer.loaded.name, writer.loaded.path, "".join(pieces), statistics))
        if statistics.finish_reason == "interrupted":
            break
    _progress("")
    return results


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def show(results: Sequence[Result]) -> None:
    print()
    print(side_by_side(results, width=terminal_width()))
    say(f"\n{summary(results)}")


def side_by_side(results: Sequence[Result], *, width: int) -> str:
    """Lay out the texts in columns within `width`; columns that would be too narrow are stacked in groups."""
    fitting = max(1, min(len(results), (width + len(_GAP)) // (_LEAST_WIDTH + len(_GAP))))
    groups = ceil_div(len(results), fitting)
    per_group = ceil_div(len(results), groups)
    parts = [results[start : start + per_group] for start in range(0, len(results), per_group)]
    column = (width - len(_GAP) * (per_group - 1)) // per_group
    return "\n\n".join(_columns(part, column) for part in parts)


def _columns(results: Sequence[Result], width: int) -> str:
    heads = [styled(pad(shorten(visible(result.name), width), width), "bold") for result in results]
    rules = ["─" * width for _ in results]
    texts = [wrap(visible(result.text.strip("\n")), width) for result in results]
    height = max(map(len, texts))
    lines = [[pad(text[row] if row < len(text) else "", width) for text in texts] for row in range(height)]
    return "\n".join(_GAP.join(row).rstrip() for row in [heads, rules, *lines])


def summary(results: Sequence[Result]) -> str:
    """A table of the statistics, with the fastest model and the longest text."""
    rows = [["model", "tokens", "time", "tokens/s", "first token"]]
    for result in results:
        took = result.statistics
        speeds = [f"{took.tokens_per_second:.1f}", f"{took.first_token_seconds * 1000:.0f} ms"]
        rows.append([visible(result.name), str(took.new_tokens), format_seconds(took.seconds), *speeds])
    fastest = max(results, key=lambda result: result.statistics.tokens_per_second)
    longest = max(results, key=lambda result: result.statistics.new_tokens)
    total = sum(result.statistics.new_tokens for result in results)
    seconds = sum(result.statistics.seconds for result in results)
    verdict = [
        f"fastest: {styled(visible(fastest.name), 'green')} ({fastest.statistics.tokens_per_second:.1f} tokens/s)",
        f"most tokens: {styled(visible(longest.name), 'green')} ({longest.statistics.new_tokens})",
        f"total: {total} tokens in {format_seconds(seconds)}",
    ]
    return "\n".join([format_table(rows, right=range(1, 5)), *verdict])
