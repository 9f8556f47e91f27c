"""HellaSwag, commonsense: which of four endings is correct? (Zellers et al. 2019, arXiv:1905.07830)

Texts are cleaned like in lm-evaluation-harness 0.4.13, so that the scores agree. `multiple_choice.py` has the scores.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.multiple_choice import choice_result, mark_choices
from pipeline.evaluation.scoring import Scorer, encode_pairs, regroup
from pipeline.evaluation.task import HubSource, Row, Task, TaskResult, read_json_lines
from pipeline.tokenization.interface import Tokenizer


@dataclass(frozen=True)
class Choice:
    """A cleaned question; `label` is the index of the correct ending."""

    context: str
    endings: tuple[str, ...]
    label: int


class HellaSwag(Task[Choice]):
    name = "hellaswag"
    hub = HubSource("Rowan/hellaswag", None, "validation")

    def read(self, path: Path) -> list[Row]:
        return read_json_lines(path, _problem)

    def items(self, rows: Iterable[Row], *, is_whole_set: bool) -> list[Choice]:
        return [hellaswag_choice(row) for row in rows]

    def score(self, scorer: Scorer, tokenizer: Tokenizer, items: Sequence[Choice]) -> TaskResult:
        pairs = [(choice.context, f" {ending}") for choice in items for ending in choice.endings]
        flat = scorer.score(encode_pairs(tokenizer, pairs), label="HellaSwag")
        grouped = regroup(flat, [len(choice.endings) for choice in items])
        marks = [
            mark_choices([score.total for score in scores], choice.endings, choice.label)
            for choice, scores in zip(items, grouped, strict=True)
        ]
        return choice_result(marks)


def hellaswag_choice(row: Row) -> Choice:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(clean_hellaswag(ending) for ending in row["endings"])
    return Choice(clean_hellaswag(context), endings, int(row["label"]))


def clean_hellaswag(text: str) -> str:
    """Remove WikiHow's bracketed marks from `text`, like the harness."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _problem(row: Row) -> str:
    for key in ("activity_label", "ctx_a", "ctx_b"):
        if not isinstance(row.get(key), str):
            return f"{key} is {row.get(key)!r}; expected a string"
    endings = row.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(_is_text(ending) for ending in endings):
        return f"endings is {endings!r}; expected at least two strings"
    label = str(row.get("label"))
    if not (label.isdecimal() and int(label) < len(endings)):
        return f"label is {row.get('label')!r}; expected the index of the correct ending"
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
