"""Ask a tuned model the questions in a file, and count the correct answers.

    questions = read_questions(Path("questions.jsonl"))
    replies = ask(model, tokenizer, questions.asked)
    print(format_score(score(questions, replies)))

A line of the file is ``{"question": "What is the capital of France?", "answers": ["Paris"], "kind": "capitals"}``, or
``{"question": …, "unknown": true}`` for a question that the model should say it cannot answer. A line
``{"kind": "capitals", "rivals": ["Paris", "Rome", …]}`` lists possible answers to questions of that kind.

A reply is correct if it contains an accepted answer as whole words and no rival, so listing every capital scores no
point. Case, Unicode composition, punctuation and articles are ignored.
"""

import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from pipeline.formats.chat_template import encode_prompt
from pipeline.formats.raw_files import RawFile
from pipeline.generation.generate import generate_batch
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError
from utils.files import write_json
from utils.intervals import percent_range, wilson_interval
from utils.terminal import say, visible

if TYPE_CHECKING:
    from model import TransformerLM
    from pipeline.generation.loading import LoadedModel
    from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer

MAX_REPLY_TOKENS = 60
ROWS_AT_ONCE = 64

_ARTICLES = {"a", "an", "the"}
_ADMISSION = re.compile(
    r"\b(?:(?:do|does|did|can) ?n(?:o|')t (?:know|say|tell)|cannot (?:know|say|tell)|no idea|not sure)\b"
)


@dataclass(frozen=True)
class Question:
    question: str
    answers: tuple[str, ...]
    kind: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class QuestionFile:
    """The questions, and the possible answers by kind."""

    asked: tuple[Question, ...]
    rivals: Mapping[str, frozenset[str]]


class Count(NamedTuple):
    """The number of correct answers out of `total`."""

    right: int
    total: int

    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share of correct answers."""
        return wilson_interval(self.right, self.total)

    def __str__(self) -> str:
        return f"{self.right} of {self.total} ({percent_range(self.interval())})"


class Answered(NamedTuple):
    question: Question
    reply: str
    is_right: bool


@dataclass(frozen=True)
class Score:
    """Every question with its reply; the counts are computed from these."""

    answered: tuple[Answered, ...]

    @property
    def known(self) -> Count:
        return _count(one for one in self.answered if not one.question.unknown)

    @property
    def unknown(self) -> Count:
        return _count(one for one in self.answered if one.question.unknown)

    def by_kind(self) -> dict[str, Count]:
        groups: dict[str, list[Answered]] = defaultdict(list)
        for one in self.answered:
            if not one.question.unknown:
                groups[one.question.kind or "questions"].append(one)
        return {kind: _count(group) for kind, group in sorted(groups.items())}


def read_questions(path: Path) -> QuestionFile:
    """Read and validate a question file.

    Raises:
        PipelineError: it does not exist, or a line does not have the format in the module's docstring.
    """
    asked: list[Question] = []
    rivals: dict[str, set[str]] = defaultdict(set)
    try:
        with RawFile(path, kind="jsonl") as file:
            for record in file.records():
                where = f"{path}:{record.number}"
                if record.value is None:
                    raise PipelineError(f"{where}: {record.problem}")
                value = record.value
                if "question" in value:
                    asked.append(_question(value, where))
                    rivals[asked[-1].kind].update(asked[-1].answers)
                else:
                    rivals[_text(value, "kind", where)].update(_texts(value, "rivals", where))
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}; expected one JSON object per line") from None
    if not asked:
        raise PipelineError(f"{path} contains no questions; expected one JSON object per line")
    return QuestionFile(tuple(asked), {kind: frozenset(names) for kind, names in rivals.items()})


def answer_questions(questions: QuestionFile, models: "Sequence[LoadedModel]", directory: Path) -> Path:
    """Ask every model, print the counts, and write counts and replies to a JSON file in `directory`; returns its path.

    Raises:
        PipelineError: a model was not tuned on conversations.
    """
    results = {}
    for loaded in models:
        if not loaded.is_chat:
            raise PipelineError(
                f"{loaded.name} is a base model, so it cannot answer questions; fine-tune it first: python3 main.py sft"
            )
        result = score(questions, ask(loaded.model, loaded.tokenizer, questions.asked))
        where = {"checkpoint": str(loaded.path.resolve()), "step": loaded.content.get("step")}
        results[loaded.name] = where | score_values(result)
        say(visible(f"{loaded.name}\n{format_score(result)}"))
    path = directory / f"questions_{time.strftime('%Y_%m_%d_%H_%M_%S')}.json"
    write_json(path, results)
    return path


def ask(model: "TransformerLM", tokenizer: "WikipediaTokenizer", questions: Sequence[Question]) -> list[str]:
    """The model's greedy reply to each question, each in its own conversation."""
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": one.question}]) for one in questions]
    settings = GenerationSettings(max_length=MAX_REPLY_TOKENS, temperature=0)
    with tqdm(total=len(prompts), desc="questions", unit=" replies", leave=False, disable=None) as bar:
        rows = generate_batch(
            model, prompts, settings, tokenizer=tokenizer, max_rows=ROWS_AT_ONCE, on_finished=bar.update
        )
    return [tokenizer.decode([token for token in row if token != tokenizer.eos_id]).strip() for row in rows]


def score(questions: QuestionFile, replies: Sequence[str]) -> Score:
    pairs = zip(questions.asked, replies, strict=True)
    return Score(
        tuple(
            Answered(question, reply, is_right(question, reply, questions.rivals.get(question.kind, ())))
            for question, reply in pairs
        )
    )


def is_right(question: Question, reply: str, rivals: Iterable[str] = ()) -> bool:
    if question.unknown:
        return admits(reply)
    text = normalise(reply)
    answers = {normalise(answer) for answer in question.answers}
    if not any(_holds(text, answer) for answer in answers):
        return False
    asked = normalise(question.question)  # a reply may repeat its words
    wrong = {normalise(rival) for rival in rivals} - answers
    return not any(_names_another(text, rival, answers) for rival in wrong if not _holds(asked, rival))


def admits(reply: str) -> bool:
    """Whether the reply says that the model does not know."""
    return bool(_ADMISSION.search(reply.casefold().replace("’", "'")))


def normalise(text: str) -> str:
    """Case-folded words separated by single spaces, without punctuation and articles."""
    folded = unicodedata.normalize("NFC", text).casefold()
    words = re.sub(r"(?<=\d),(?=\d)", "", folded)
    return " ".join(word for word in re.findall(r"\w+", words) if word not in _ARTICLES)


def format_score(result: Score, *, num_examples: int = 0) -> str:
    """The counts by kind, the first wrong answers, and a summary line at the end."""
    kinds = result.by_kind()
    width = max(map(len, kinds), default=0)
    lines = [f"  {kind:<{width}}  {count}" for kind, count in kinds.items()]
    wrong = [one for one in result.answered if not one.is_right]
    lines += [f"  wrong: {one.question.question} {one.reply}" for one in wrong[:num_examples]]
    if kinds:
        lines.append(f"  total: {result.known}")
    return "\n".join([*lines, summary(result)])


def summary(result: Score) -> str:
    """``290 of 300 held-out questions right, 31 of 50 unknown ones admitted``"""
    known = f"{result.known.right} of {result.known.total} held-out questions right"
    return f"{known}, {result.unknown.right} of {result.unknown.total} unknown ones admitted"


def score_values(result: Score) -> dict[str, object]:
    """The counts and every reply as plain values, for a JSON file."""
    replies = [
        {"question": one.question.question, "reply": one.reply, "right": one.is_right} for one in result.answered
    ]
    kinds = {kind: _count_values(count) for kind, count in result.by_kind().items()}
    return {**count_values(result), "kinds": kinds, "replies": replies}


def count_values(result: Score) -> dict[str, object]:
    """The two counts as plain values."""
    return {"known": _count_values(result.known), "unknown": _count_values(result.unknown)}


def _count_values(count: Count) -> dict[str, object]:
    return {"right": count.right, "total": count.total, "interval_95": list(count.interval())}


def _count(answered: Iterable[Answered]) -> Count:
    marks = [one.is_right for one in answered]
    return Count(sum(marks), len(marks))


def _holds(text: str, words: str) -> bool:
    return bool(words) and f" {words} " in f" {text} "


def _names_another(text: str, rival: str, answers: Iterable[str]) -> bool:
    """Whether `rival` is in the text, other than as part of an answer, like "dollar" in "Australian dollar"."""
    for answer in answers:
        if _holds(answer, rival):
            text = f" {text} ".replace(f" {answer} ", " | ").strip()
    return _holds(text, rival)


def _question(value: Mapping[str, object], where: str) -> Question:
    unknown = value.get("unknown", False)
    if not isinstance(unknown, bool):
        raise PipelineError(f"{where}: `unknown` is {unknown!r}; expected true or false")
    answers = () if unknown else _texts(value, "answers", where)
    kind = _text(value, "kind", where) if "kind" in value else ""
    return Question(_text(value, "question", where), answers, kind, unknown)


def _text(value: Mapping[str, object], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.strip():
        raise PipelineError(f"{where}: `{key}` is {text!r}; expected a string")
    return text


def _texts(value: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    texts = value.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and normalise(text) for text in texts):
        raise PipelineError(f"{where}: `{key}` is {texts!r}; expected a list of strings")
    return tuple(texts)
