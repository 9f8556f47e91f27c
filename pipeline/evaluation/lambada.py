"""LAMBADA: does the model predict the last word of a passage? (Paperno et al. 2016, arXiv:1606.06031)

`acc` and `perplexity` split a passage at its last space, like lm-evaluation-harness 0.4.13. The corrected scores split
it at the start of the last word, which differs if a line break precedes the word.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.scoring import Scorer, encode_pairs
from pipeline.evaluation.statistics import Figure
from pipeline.evaluation.task import HubSource, Row, Task, TaskResult, accuracy, read_json_lines
from pipeline.tokenization.interface import Tokenizer


@dataclass(frozen=True)
class LastWord:
    """A passage, and two ways to split it into context and last word."""

    passage: str

    @property
    def at_space(self) -> tuple[str, str]:
        """Split at the last space, like the harness."""
        context, _, word = self.passage.rpartition(" ")
        return context, f" {word}"

    @property
    def at_word(self) -> tuple[str, str]:
        """The start of the last word."""
        passage = self.passage.rstrip()
        context = passage[: len(passage) - len(passage.split()[-1])].rstrip()
        return context, passage[len(context) :]


class Lambada(Task[LastWord]):
    name = "lambada"
    hub = HubSource("EleutherAI/lambada_openai", "default", "test")

    def read(self, path: Path) -> list[Row]:
        return read_json_lines(path, _problem)

    def items(self, rows: Iterable[Row], *, is_whole_set: bool) -> list[LastWord]:
        return [LastWord(row["text"]) for row in rows]

    def score(self, scorer: Scorer, tokenizer: Tokenizer, items: Sequence[LastWord]) -> TaskResult:
        pairs = [passage.at_space for passage in items]
        differing = [index for index, passage in enumerate(items) if passage.at_word != passage.at_space]
        requests = encode_pairs(tokenizer, pairs + [items[index].at_word for index in differing])
        scores = scorer.score(requests, label="LAMBADA")
        as_harness = scores[: len(items)]
        corrected = list(as_harness)
        for index, score in zip(differing, scores[len(items) :], strict=True):
            corrected[index] = score
        note = f"{len(differing)} of {len(items)} passages split at the start of the last word"
        losses = [-score.total for score in as_harness]
        corrected_losses = [-score.total for score in corrected]
        figures = {
            "acc": accuracy(score.greedy_chance for score in as_harness),
            "perplexity": Figure(losses, scale="exp", higher_is_better=False),
            "acc_corrected": accuracy((score.greedy_chance for score in corrected), note=note),
            "perplexity_corrected": Figure(corrected_losses, scale="exp", higher_is_better=False, note=note),
        }
        records: list[dict[str, object]] = [
            {"acc": score.greedy_chance, "loglikelihood": score.total} for score in as_harness
        ]
        return TaskResult(figures, records)


def _problem(row: Row) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        return f"text is {text!r}; expected a string"
    if len(text.split()) < 2 or " " not in text.strip():
        return f"text {text!r} has no last word to predict"
    return ""
