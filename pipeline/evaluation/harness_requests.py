"""Answer lm-evaluation-harness's three kinds of requests with our scorer and our generation.

`harness_model.py` makes it a model of the harness. The rules are those of its `hf` model with `add_bos_token=True`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pipeline.evaluation.scoring import Scorer, encode_pairs, regroup
from pipeline.evaluation.wikitext_perplexity import rolling_requests
from pipeline.generation.generate import generate_batch
from pipeline.generation.settings import GenerationSettings
from pipeline.tokenization.interface import Tokenizer

_MAX_NEW_TOKENS = 256  # the harness's default
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

Options = Mapping[str, object]


class Instance(Protocol):
    """A request of the harness; `args` depends on its kind."""

    @property
    def args(self) -> tuple[object, ...]: ...


class HarnessRequests:
    """Answers the requests about one model.

    `greedy_chances` has, for every (context, continuation) asked so far, the chance that greedy decoding generates the
    continuation; the harness itself only takes yes or no.
    """

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._scorer = scorer
        self._tokenizer = tokenizer
        self.greedy_chances: dict[tuple[str, str], float] = {}

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """For each (context, continuation): its log-probability, and whether greedy decoding generates it."""
        pairs = [(str(context), str(continuation)) for context, continuation in (request.args for request in requests)]
        scores = self._scorer.score(encode_pairs(self._tokenizer, pairs), label="requests")
        self.greedy_chances |= {pair: score.greedy_chance for pair, score in zip(pairs, scores, strict=True)}
        return [(score.total, score.greedy_chance == 1.0) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """The log-probability of each whole text."""
        texts = [str(text) for (text,) in (request.args for request in requests)]
        windows = [rolling_requests(self._tokenizer, text, window=self._scorer.window) for text in texts]
        flat = self._scorer.score([window for text in windows for window in text], label="requests")
        return [sum(score.total for score in scores) for scores in regroup(flat, list(map(len, windows)))]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The continuation of each (context, options), up to the first of the options' `until` strings."""
        answers = [""] * len(requests)
        for options, places in _by_options(requests):
            contexts = [str(requests[place].args[0]) for place in places]
            for place, answer in zip(places, self._continuations(contexts, options), strict=True):
                answers[place] = answer
        return answers

    def _continuations(self, contexts: Sequence[str], options: Options) -> Iterator[str]:
        model = self._scorer.model
        length = next((options[name] for name in _LENGTH_NAMES if options.get(name) is not None), _MAX_NEW_TOKENS)
        new_tokens = min(int(str(length)), model.config.context_length // 2)
        room = model.config.context_length - new_tokens
        prompts = [self._tokenizer.encode(context, add_bos=True)[-room:] for context in contexts]
        stops = _stop_strings(options)
        settings = _settings(options, new_tokens, stops)
        for ids in generate_batch(model, prompts, settings, tokenizer=self._tokenizer):
            yield _cut(self._tokenizer.decode(ids), stops)


def _by_options(requests: Sequence[Instance]) -> Iterator[tuple[Options, list[int]]]:
    """The places of the requests that share the same options."""
    groups: dict[str, tuple[Options, list[int]]] = {}
    for place, request in enumerate(requests):
        options = request.args[1]
        assert isinstance(options, Mapping), f"generation options are {options!r}; expected a mapping"
        groups.setdefault(repr(sorted(options.items())), (options, []))[1].append(place)
    yield from groups.values()


def _stop_strings(options: Options) -> tuple[str, ...]:
    until = options.get("until") or []
    found = [until] if isinstance(until, str) else until
    assert isinstance(found, Sequence), f"until is {until!r}; expected a string or a list of strings"
    return tuple(str(stop) for stop in found if stop)


def _settings(options: Options, new_tokens: int, stops: tuple[str, ...]) -> GenerationSettings:
    """Greedy, unless the task asks for samples."""
    temperature = float(str(options.get("temperature") or 0.0))
    if options.get("do_sample") is True and temperature == 0:
        temperature = 1.0
    if options.get("do_sample") is False:
        temperature = 0.0
    return GenerationSettings(
        max_length=new_tokens,
        temperature=temperature,
        top_k=int(str(options.get("top_k") or 0)),
        top_p=float(str(options.get("top_p") or 1.0)),
        seed=0,
        stop=stops,
    )


def _cut(text: str, stops: tuple[str, ...]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
