"""One prompt and its continuation in a batch: what it has read, and the event of each of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.generation.settings import GenerationSettings
from pipeline.generation.text_stream import TextStream
from pipeline.generation.token_rules import TokenRules
from utils.errors import PipelineError

TopLogprobs = tuple[tuple[int, float], ...]  # ids and log-probabilities, most likely first
PromptLogprobs = tuple[tuple[float, TopLogprobs], ...]  # of each token and its alternatives, from the second token on


@dataclass(frozen=True)
class TokenEvent:
    """A row's token from one step."""

    row: int  # what `BatchGenerator.join` returned
    token_id: int
    text: str  # newly certain text: whole characters, cut before a stop string; "" without a tokenizer
    # "stop" (EOS, a stop string, or the constraint's end), "length", "error"; None: the row continues
    finish_reason: str | None = None
    logprob: float | None = None  # in the model's own distribution, before temperature and filters
    top_logprobs: TopLogprobs | None = None
    entropy: float | None = None  # of that distribution, in nats
    prompt_logprobs: PromptLogprobs | None = None  # with the first token, if the settings ask for them
    error: PipelineError | None = None  # why the row ended with finish reason "error"
    num_cached: int = 0  # in a row's first event: prompt tokens that the prefix cache had already


@dataclass(eq=False)
class Row:
    number: int
    ids: list[int]  # the prompt and the new tokens; after a slide, without the oldest
    settings: GenerationSettings
    generator: torch.Generator
    text: TextStream | None
    seen: Tensor | None  # (V,), for the repetition penalty
    rules: TokenRules | None  # penalties, bias and constraint
    num_new: int = 0
    prompt_logprobs: list[tuple[float, TopLogprobs]] = field(default_factory=list)
    num_cached: int = 0  # tokens of the prompt that came from the prefix cache

    def add(self, token: int, logits: Tensor, *, eos_id: int | None) -> TokenEvent:
        """Append a token that was sampled from `logits` (V,)."""
        self.ids.append(token)
        self.num_new += 1
        if self.seen is not None:
            self.seen[token] = True
        is_end = token == eos_id and not self.settings.ignore_eos
        text = self.text.push(token) if self.text and not is_end else ""
        if self.rules is not None and not is_end:
            self.rules.add(token)
        error = self.rules.error if self.rules else None
        reason = "error" if error else self._finish_reason(is_end)
        if reason and self.text:
            text += self.text.finish()
        is_first = self.num_new == 1
        prompt = tuple(self.prompt_logprobs) if is_first and self.settings.prompt_logprobs is not None else None
        logprob, top, entropy = _logprobs(logits, token, self.settings.logprobs)
        num_cached = self.num_cached if is_first else 0
        return TokenEvent(self.number, token, text, reason, logprob, top, entropy, prompt, error, num_cached)

    def _finish_reason(self, is_end: bool) -> str | None:
        if is_end or (self.text is not None and self.text.stopped) or (self.rules and self.rules.is_finished):
            return "stop"
        return "length" if self.num_new >= self.settings.max_length else None


def seeded_generator(seed: int | None) -> torch.Generator:
    """A generator on the CPU, so that a seed gives the same numbers on every device; None: a random seed."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def rule_offsets(rows: Sequence[Row], logits: Tensor) -> Tensor | None:
    """What the rows' rules add to `logits`, (B, V); None if no row has any."""
    if all(row.rules is None for row in rows):
        return None
    offsets = torch.zeros(logits.shape, device=logits.device)
    for index, row in enumerate(rows):
        if row.rules:
            offsets[index] = row.rules.offsets()
    return offsets


def seen_tokens(rows: Sequence[Row], logits: Tensor) -> Tensor | None:
    """Which tokens each row has seen, (B, V); None if no row has a repetition penalty."""
    if all(row.seen is None for row in rows):
        return None
    nothing = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return torch.stack([nothing if row.seen is None else row.seen for row in rows])


def logprobs_of(logits: Tensor, tokens: Sequence[int], count: int) -> list[tuple[float, TopLogprobs]]:
    """For each of T `tokens` its log-probability in `logits` (T, V), and the `count` most likely with theirs."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))  # (T, N)
    tops = zip(ids.tolist(), values.tolist(), strict=True)
    return [(logprob, tuple(zip(*top, strict=True))) for logprob, top in zip(chosen, tops, strict=True)]


def _logprobs(
    logits: Tensor, token: int, count: int | None
) -> tuple[float, TopLogprobs, float] | tuple[None, None, None]:
    """The token's log-probability in `logits` (V,), the `count` most likely tokens with theirs, and the entropy."""
    if count is None:
        return None, None, None
    logprobs = logits.float().log_softmax(-1)  # (V,)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    entropy = torch.special.entr(logprobs.exp()).sum().item()
    return logprobs[token].item(), tuple(zip(ids.tolist(), values.tolist(), strict=True)), entropy
