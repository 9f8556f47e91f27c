"""The generation loop: rows join, every step generates a token for each row, and rows leave when they are done.

    batch = BatchGenerator(model, tokenizer, max_rows=16)
    row = batch.join(prompt_ids, GenerationSettings(max_length=50, seed=1))
    while batch.num_rows:
        for event in batch.step():
            print(event.row, event.text, event.finish_reason)

Up to rounding, a row's tokens depend only on its prompt and settings, not on other rows in the batch. Not thread-safe.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor

from model import TransformerLM
from pipeline.generation.prefix_cache import BLOCK, PrefixCache
from pipeline.generation.row import Row, TokenEvent, logprobs_of, rule_offsets, seeded_generator, seen_tokens
from pipeline.generation.sampling import sample_next_token
from pipeline.generation.settings import GenerationSettings, check_prompt
from pipeline.generation.text_stream import TextStream
from pipeline.generation.token_rules import TokenRules
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.ragged_rows import RaggedRows
from pipeline.tokenization.interface import Tokenizer

# Prompt tokens per step, so that a long prompt does not delay the other rows. On a CPU, 512 take as long as ten tokens
# for each of 16 rows, so fewer are read if that would delay more rows than it brings forward.
PREFILL_TOKENS = 512
CPU_PREFILL_TOKENS = 128

Decoder = Callable[[Tensor, KVCache], Tensor]  # a token (1,), its row of the cache → logits (1, V)


class BatchGenerator:
    """Generate up to `max_rows` continuations with one model in parallel.

    Args:
        tokenizer: decodes text, finds stop strings and defines the end-of-text id. None: tokens only, with the
            end-of-text id stored in the model's checkpoint, if any.
        max_length: maximum positions per row, prompt and new tokens; None: the model's context.
        decoder: computes the steps in which a single row generates; None: the model's own forward.
        prefix_cache: keeps what was read for later rows; only for batches of the same model.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer | None = None,
        *,
        max_rows: int = 1,
        max_length: int | None = None,
        decoder: Decoder | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.eos_id: int | None = tokenizer.eos_id if tokenizer else model.eos_id
        self.context = model.config.context_length
        self._decoder = decoder
        self._cache = KVCache(
            model.config,
            batch_size=max_rows,
            max_length=min(max_length or self.context, self.context),
            device=model.device,
            dtype=model.dtype,
        )
        self._prefix_cache = prefix_cache
        self._waiting: list[Row] = []
        # Row i of the cache belongs to the i-th of these: first the rows that generate, then those that read.
        self._rows: list[Row] = []
        self._num_generating = 0
        self._num_joined = 0

    @property
    def num_rows(self) -> int:
        """The number of unfinished rows: waiting, reading their prompt, or generating."""
        return len(self._waiting) + len(self._rows)

    def join(self, prompt_ids: Sequence[int], settings: GenerationSettings) -> int:
        """Add a prompt; its first token comes in a later step. Returns the row number used in its events.

        Raises:
            PipelineError: an empty prompt, an unknown id, or more tokens than fit in the context.
        """
        assert self.num_rows < self.max_rows, f"all {self.max_rows} rows are in use"
        ids = [int(token) for token in prompt_ids]
        check_prompt(ids, settings, context=self.context, vocab_size=self.model.config.vocab_size)
        needed = min(len(ids) + settings.max_length, self.context)
        assert needed <= self._cache.max_length, f"{needed} positions needed, the cache has {self._cache.max_length}"
        text = TextStream(self.tokenizer, ids, stop=settings.stop) if self.tokenizer else None
        seen = None
        if settings.repetition_penalty != 1:
            seen = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=self.model.device)
            seen[ids] = True
        self._num_joined += 1
        generator = seeded_generator(settings.seed)
        rules = self._rules(settings)
        self._waiting.append(Row(self._num_joined, ids, settings, generator, text, seen, rules))
        return self._num_joined

    def leave(self, number: int) -> None:
        """Free a row immediately, in any state. The number of a finished row is not an error."""
        self._waiting = [row for row in self._waiting if row.number != number]
        for index, row in enumerate(self._rows):
            if row.number == number:
                self._free(index)
                return

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Read up to `PREFILL_TOKENS` of new prompts, and generate a token for every row whose prompt is complete.

        Returns an empty list while only a long prompt is being read.
        """
        with _evaluating(self.model):
            self._slide_full_rows()
            self._admit_waiting_rows()
            logits = self._forward()  # (B, V)
        return [] if logits is None else self._sample(logits)

    def _rules(self, settings: GenerationSettings) -> TokenRules | None:
        if not settings.changes_logits:
            return None
        return TokenRules(
            bias=settings.logit_bias,
            frequency_penalty=settings.frequency_penalty,
            presence_penalty=settings.presence_penalty,
            constraint=settings.constraint,
            vocab_size=self.model.config.vocab_size,
            device=self.model.device,
        )

    def _slide_full_rows(self) -> None:
        """Drop the oldest half of rows that reached the end of the context; the rest is read again from position 0."""
        for index in reversed(range(self._num_generating)):
            row = self._rows[index]
            if self._cache.lengths[index] >= self.context:
                self._free(index)
                row.ids = row.ids[-max(1, self.context // 2) :]
                self._waiting.insert(0, row)

    def _admit_waiting_rows(self) -> None:
        """Give waiting rows a place, with the beginnings that are known."""
        held = []
        for row in self._waiting:
            index = len(self._rows)
            if self._is_being_read(row):
                held.append(row)
                continue
            known = 0
            if self._prefix_cache and row.settings.prompt_logprobs is None:
                known = self._prefix_cache.load(row.ids, self._cache, index)
            self._cache.truncate_row(index, known)
            if not row.num_new:
                row.num_cached = known
            self._rows.append(row)
        self._waiting = held

    def _is_being_read(self, row: Row) -> bool:
        """Whether another row is reading this row's next block, so that it will soon be known."""
        if self._prefix_cache is None or row.settings.prompt_logprobs is not None:
            return False
        end = self._prefix_cache.known_length(row.ids) + BLOCK
        return len(row.ids) > end and any(
            other.ids[:end] == row.ids[:end] for other in self._rows[self._num_generating :]
        )

    def _count_prompt_tokens(self) -> list[int]:
        """How many tokens this step reads of each of the first prompts that are not complete."""
        num_reading = len(self._rows) - self._num_generating
        budget = PREFILL_TOKENS
        if self._num_generating >= num_reading and self.model.device.type == "cpu":
            budget = min(budget, CPU_PREFILL_TOKENS)
        counts = []
        for index in range(self._num_generating, len(self._rows)):
            if not budget:
                break
            counts.append(min(len(self._rows[index].ids) - self._cache.lengths[index], budget))
            budget -= counts[-1]
        return counts

    def _forward(self) -> Tensor | None:
        """The logits of all rows that generate, (B, V), including those whose prompt is complete after this pass."""
        counts = self._count_prompt_tokens()
        if self._decoder and self._num_generating == 1 and not counts:
            token = torch.tensor(self._rows[0].ids[-1:], device=self.model.device)
            return self._decoder(token, self._cache.rows(0, 1))
        return self._read_and_decode(counts) if self._rows else None

    def _read_and_decode(self, counts: Sequence[int]) -> Tensor | None:
        """Decode a token of each generating row and read `counts` tokens of the next prompts, in one pass."""
        generating = self._num_generating
        parts = [row.ids[-1:] for row in self._rows[:generating]]
        for index, count in enumerate(counts, start=generating):
            start = self._cache.lengths[index]
            parts.append(self._rows[index].ids[start : start + count])
        ids = torch.tensor([list(chain.from_iterable(parts))], device=self.model.device)  # (1, N)
        cache = RaggedRows(self._cache, [len(part) for part in parts])
        hidden = self.model.hidden_states(ids, cache=cache)[0]  # (N, C)
        last = list(range(generating))  # the place of each generating row's last token
        end = generating
        for index, count in enumerate(counts, start=generating):
            start, end = end, end + count
            if self._has_read(index, hidden[start:end]):
                last.append(end - 1)
        return self.model.project(hidden[last]) if last else None

    def _has_read(self, index: int, hidden: Tensor) -> bool:
        """Note that a row has read the next tokens of its prompt, whose hidden states are (T, C). Returns whether the
        prompt is complete, so that the row generates from now on."""
        row, length = self._rows[index], self._cache.lengths[index]
        if row.settings.prompt_logprobs is not None and not row.num_new:
            self._score_prompt(row, hidden, start=length - len(hidden), count=row.settings.prompt_logprobs)
        if length < len(row.ids):
            return False
        self._remember(index)
        self._swap(self._num_generating, index)
        self._num_generating += 1
        return True

    def _score_prompt(self, row: Row, hidden: Tensor, *, start: int, count: int) -> None:
        """Note the log-probabilities of the tokens that follow the positions of `hidden` (T, C), from `start` on."""
        targets = row.ids[start + 1 : start + 1 + len(hidden)]
        if targets:
            logits = self.model.project(hidden[: len(targets)])  # (T, V)
            row.prompt_logprobs += logprobs_of(logits, targets, count)

    def _sample(self, logits: Tensor) -> list[TokenEvent]:
        """Sample a token for each generating row from `logits` (B, V), and free finished rows."""
        rows = self._rows[: self._num_generating]
        settings = [row.settings for row in rows]
        uniform = torch.cat([torch.rand(1, generator=row.generator) for row in rows]).to(logits.device)
        seen, offsets = seen_tokens(rows, logits), rule_offsets(rows, logits)  # (B, V) each, or None
        tokens = sample_next_token(logits, settings, uniform=uniform, seen=seen, offsets=offsets).tolist()
        events = [
            row.add(token, scores, eos_id=self.eos_id) for row, token, scores in zip(rows, tokens, logits, strict=True)
        ]
        for index in reversed(range(len(rows))):
            if events[index].finish_reason:
                self._free(index)
        return events

    def _free(self, index: int) -> None:
        """Remove a row; others move so that the places in use stay contiguous, generating rows first."""
        self._remember(index)
        if index < self._num_generating:
            self._num_generating -= 1
            self._swap(index, self._num_generating)
            index = self._num_generating
        self._swap(index, len(self._rows) - 1)
        self._rows.pop()

    def _remember(self, index: int) -> None:
        """Keep what a row has read for later rows that begin alike."""
        if self._prefix_cache:
            self._prefix_cache.store(self._rows[index].ids[: self._cache.lengths[index]], self._cache, index)

    def _swap(self, first: int, second: int) -> None:
        self._cache.swap_rows(first, second)
        self._rows[first], self._rows[second] = self._rows[second], self._rows[first]


@contextmanager
def _evaluating(model: TransformerLM) -> Iterator[None]:
    """Disable dropout inside the block, then restore the model's mode."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
