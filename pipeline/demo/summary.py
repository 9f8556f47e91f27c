"""The quickstart's final summary: the score with error bars, sample questions and answers, a story, next commands.

print(summary_text(outcome))
"""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.demo.screen import WIDTH, wrapped
from pipeline.formats.logged_metrics import TRAIN_LOSS, VAL_LOSS
from utils.plots import save_curves
from utils.raw_log import read_log
from utils.terminal import styled, visible

NUM_KNOWN_SHOWN, NUM_UNKNOWN_SHOWN = 8, 2
ABOUT_ENCYCLOPEDIA = (
    "The text was generated from templates and tables of facts, because a small model can learn it in minutes. "
    "The score shows that the pipeline works; it says nothing about how well it does on real text."
)
CONFIG = "configs/quickstart.json"


@dataclass(frozen=True)
class NextCommand:
    purpose: str
    arguments: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The command, split into two lines with a backslash if it is too long."""
        line = " ".join(("python3", *self.arguments))
        options = [number for number, argument in enumerate(self.arguments) if argument.startswith("--")]
        if len(line) <= WIDTH - 2 or not options:
            return line
        last = options[-1]
        return f"python3 {' '.join(self.arguments[:last])} \\\n    {' '.join(self.arguments[last:])}"


def next_commands(config: str, *, is_tuned: bool) -> list[NextCommand]:
    """Suggested next commands, ready to copy and run."""
    chat = NextCommand("Talk to it", ("main.py", "inference", "--config", config, "--checkpoint", "latest"))
    page = NextCommand("Talk to it in a browser", ("main.py", "serve", "--config", config))
    write = NextCommand("Generate text with it", chat.arguments)
    use = [chat, page] if is_tuned else [write]
    return [
        *use,
        NextCommand("Its curves, samples and scores in a browser", ("main.py", "runs", "--config", config)),
        NextCommand(
            "Export it for other programs",
            ("main.py", "export", "--config", config, "--checkpoint", "latest", "--output", "exported/quickstart"),
        ),
        NextCommand("Train on your own text (a folder)", ("main.py", "quickstart", "--corpus", "FOLDER")),
        NextCommand("Train on real text with a GPU: download and prepare it first", ("main.py", "fineweb")),
        NextCommand("", ("main.py", "train", "--set", "dataset.source=fineweb")),
    ]


def format_commands(commands: Sequence[NextCommand]) -> str:
    lines = []
    for command in commands:
        lines += [f"{command.purpose}:"] if command.purpose else []
        lines.append(f"  {command.shown}")
    return "\n".join(lines)


def format_score(score: dict[str, Any]) -> str:
    """Both counts with their 95% intervals."""
    known, unknown = score["known"], score["unknown"]
    return (
        f"{known['right']} of {known['total']} held-out questions right ({_interval(known)}),\n"
        f"{unknown['right']} of {unknown['total']} unknown ones admitted ({_interval(unknown)})"
    )


def _interval(count: dict[str, Any]) -> str:
    low, high = count["interval_95"]
    return f"95% interval: {low:.0%} to {high:.0%}"


def chosen_replies(score: dict[str, Any], questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first question from each of eight kinds and the first two unknown ones, whether right or wrong."""
    known: dict[str, dict[str, Any]] = {}
    unknown: list[dict[str, Any]] = []
    for question, reply in zip(questions, score["replies"], strict=True):
        if question.get("unknown"):
            unknown.append(reply)
        else:
            known.setdefault(question.get("kind", ""), reply)
    return [*list(known.values())[:NUM_KNOWN_SHOWN], *unknown[:NUM_UNKNOWN_SHOWN]]


def format_replies(replies: Iterable[dict[str, Any]]) -> str:
    lines = []
    for reply in replies:
        mark = styled("✓", "green") if reply["right"] else styled("✗", "red")
        answer = visible(" ".join(reply["reply"].split())) or "(nothing)"
        lines.append(f"{mark} {styled(textwrap.shorten(reply['question'], WIDTH - 2, placeholder='…'), 'bold')}")
        lines.append(styled(wrapped(textwrap.shorten(answer, 2 * WIDTH, placeholder="…"), indent=4), "cyan"))
    return "\n".join(lines)


def format_text(prompt: str, text: str) -> str:
    return f"{styled(wrapped(prompt, indent=2), 'bold')}\n{styled(wrapped(visible(text), indent=4), 'cyan')}"


def read_questions(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "question" in line]


def draw_losses(path: Path, log: Path) -> None:
    lines = read_log(log)
    names = {"training": TRAIN_LOSS, "validation": VAL_LOSS}
    curves = {name: [(line["step"], line[key]) for line in lines if line.get(key)] for name, key in names.items()}
    save_curves(path, curves, title="Loss in training", x_label="step", y_label="loss (nats per token)")


def draw_scores(path: Path, scores: dict[str, Any], last_step: int) -> None:
    """Plot the share of correct answers for the checkpoints from tuning; `tuned` is the last one."""
    at = {last_step if name == "tuned" else int(name): score for name, score in scores.items()}
    points = sorted(at.items())
    curves = {
        "held-out questions right": [(step, _share(score["known"])) for step, score in points],
        "unknown ones admitted": [(step, _share(score["unknown"])) for step, score in points],
    }
    save_curves(path, curves, title="Score in tuning", x_label="tuning step", y_label="share")


def _share(count: dict[str, Any]) -> float:
    return float(count["right"] / max(1, count["total"]))
