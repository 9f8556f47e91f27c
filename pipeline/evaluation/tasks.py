"""Each task: the requests it makes of a model, and the figures that follow from the scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.items import BenchmarkSet, Choice, LastWord, Page
from pipeline.evaluation.requests import encode_pairs, rolling_requests
from pipeline.evaluation.scoring import Score, Scorer
from pipeline.evaluation.statistics import Figure

if TYPE_CHECKING:
    from tokenizer import WikipediaTokenizer

TOP_K = (1, 5, 10)


@dataclass(frozen=True)
class TaskResult:
    """A task's figures by name, and what it found for each item (plain values, for the JSON report)."""

    figures: dict[str, Figure]
    items: list[dict]


def score_wikitext(scorer: Scorer, tokenizer: "WikipediaTokenizer", data: BenchmarkSet) -> TaskResult:
    """Perplexities by rolling windows, and from the same passes how often the next token was among the likeliest."""
    pages: Sequence[Page] = data.items
    requests = [rolling_requests(tokenizer, page.text, window=scorer.window) for page in pages]
    flat = scorer.score([request for page in requests for request in page], label="WikiText")
    scores = _regroup(flat, [len(page) for page in requests])
    logprobs = [np.concatenate([score.logprobs for score in page]).astype(np.float64) for page in scores]
    losses = [-float(page.sum()) for page in logprobs]
    text_losses = [-float(page[1:].sum()) for page in logprobs]  # [1:]: without BOS
    words, num_bytes = [page.num_words for page in pages], [page.num_bytes for page in pages]
    tokens = [len(page) - 1 for page in logprobs]
    beside = "without the <s> that the harness scores as text"
    figures = {
        "word_perplexity": Figure(losses, words, "exp", higher_is_better=False),
        "byte_perplexity": Figure(losses, num_bytes, "exp", higher_is_better=False),
        "bits_per_byte": Figure(losses, num_bytes, "bits", higher_is_better=False, unit="bits"),
        "word_perplexity_corrected": Figure(text_losses, words, "exp", higher_is_better=False, note=beside),
        "token_perplexity": Figure(
            text_losses, tokens, "exp", higher_is_better=False, note="depends on the tokenizer: compare only within one"
        ),
    }
    for k in TOP_K:
        hits = [float(np.concatenate([score.top_chance(k) for score in page])[1:].sum()) for page in scores]
        figures[f"next_token_top{k}"] = Figure(hits, tokens, unit="share")
    items = [
        {"loglikelihood": -loss, "words": w, "bytes": b, "tokens": t}
        for loss, w, b, t in zip(losses, words, num_bytes, tokens, strict=True)
    ]
    return TaskResult(figures, items)


def score_lambada(scorer: Scorer, tokenizer: "WikipediaTokenizer", data: BenchmarkSet) -> TaskResult:
    """Whether the model would write the passage's last word, by the harness's split and by the corrected one."""
    passages: Sequence[LastWord] = data.items
    pairs = [each.at_space for each in passages]
    differing = [index for index, each in enumerate(passages) if each.at_word != each.at_space]
    requests = encode_pairs(tokenizer, pairs + [passages[index].at_word for index in differing])
    scores = scorer.score(requests, label="LAMBADA")
    followed = scores[: len(passages)]
    corrected = list(followed)
    for index, score in zip(differing, scores[len(passages) :], strict=True):
        corrected[index] = score
    note = f"{len(differing)} of {len(passages)} passages split where the last word begins"
    figures = {
        "acc": _accuracy(score.greedy_chance for score in followed),
        "perplexity": Figure([-score.total for score in followed], scale="exp", higher_is_better=False),
        "acc_corrected": _accuracy((score.greedy_chance for score in corrected), note=note),
        "perplexity_corrected": Figure(
            [-score.total for score in corrected], scale="exp", higher_is_better=False, note=note
        ),
    }
    return TaskResult(figures, [{"acc": score.greedy_chance, "loglikelihood": score.total} for score in followed])


def score_hellaswag(scorer: Scorer, tokenizer: "WikipediaTokenizer", data: BenchmarkSet) -> TaskResult:
    """Commonsense: which ending the model finds likeliest, by its log-probability and by that over its characters."""
    choices: Sequence[Choice] = data.items
    pairs = [(choice.context, f" {ending}") for choice in choices for ending in choice.endings]
    flat = scorer.score(encode_pairs(tokenizer, pairs), label="HellaSwag")
    items = []
    for choice, scores in zip(choices, _regroup(flat, [len(each.endings) for each in choices]), strict=True):
        totals = np.array([score.total for score in scores])
        characters = np.array([float(len(ending)) for ending in choice.endings])
        items.append(
            {
                "acc": chance_of_best(totals, choice.label),
                "acc_norm": chance_of_best(totals / characters, choice.label),
                "loglikelihoods": totals.tolist(),
            }
        )
    figures = {name: _accuracy(item[name] for item in items) for name in ("acc", "acc_norm")}
    return TaskResult(figures, items)


def chance_of_best(scores: np.ndarray, label: int) -> float:
    """How likely `label` is chosen as the best of `scores` if equal ones are chosen among at random."""
    best = scores == scores.max()
    return float(best[label]) / int(best.sum())


TASKS: dict[str, Callable[[Scorer, "WikipediaTokenizer", BenchmarkSet], TaskResult]] = {
    "wikitext": score_wikitext,
    "lambada": score_lambada,
    "hellaswag": score_hellaswag,
}


def _accuracy(chances: Iterable[float], *, note: str = "") -> Figure:
    """Of items that are right or wrong, but for a fraction where the model cannot tell between answers."""
    return Figure(list(chances), is_yes_no=True, unit="share", note=note)


def _regroup(flat: Sequence[Score], sizes: Sequence[int]) -> list[list[Score]]:
    iterator = iter(flat)
    return [[next(iterator) for _ in range(size)] for size in sizes]
