"""Continue one or several prompts: as a stream of events, tokens or text, or as tensors with `generate`.

    settings = GenerationSettings(max_length=100, seed=1)
    for piece in stream_text(model, tokenizer, "Once upon a time", settings):
        print(piece, end="", flush=True)

All of them run the loop in `pipeline.generation.batch_generator`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch
from torch import Tensor

from pipeline.generation.batch_generator import BatchGenerator, Decoder
from pipeline.generation.row import TokenEvent
from pipeline.generation.settings import GenerationSettings, check_text
from pipeline.generation.token_rules import Constraint
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from model import TransformerLM

# What other libraries call the options of `generate`.
_ELSEWHERE = {
    "max_new_tokens": "max_length",
    "max_tokens": "max_length",
    "do_sample": "temperature",
    "stop_strings": "stop",
    "eos_token_id": "ignore_eos",
}

__all__ = [
    "GenerateOptions",
    "GenerationSettings",
    "generate",
    "generate_batch",
    "stream_events",
    "stream_text",
    "stream_tokens",
]


class GenerateOptions(TypedDict, total=False):
    """The keyword options of `generate`, as in `GenerationSettings`."""

    max_length: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    on_overflow: str
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    frequency_penalty: float
    presence_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    constraint: Constraint | None


def stream_events(
    model: "TransformerLM",
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    *,
    tokenizer: Tokenizer | None = None,
    decoder: Decoder | None = None,
) -> Iterator[TokenEvent]:
    """One event per token: id, text, log-probabilities if requested, and the finish reason in the last one."""
    length = len(prompt_ids) + settings.max_length
    batch = BatchGenerator(model, tokenizer, max_length=length, decoder=decoder)
    batch.join(prompt_ids, settings)
    while batch.num_rows:
        yield from batch.step()


def stream_tokens(
    model: "TransformerLM", prompt_ids: Sequence[int], settings: GenerationSettings, *, decoder: Decoder | None = None
) -> Iterator[int]:
    """The new tokens, without the final EOS."""
    for event in stream_events(model, prompt_ids, settings, decoder=decoder):
        if event.finish_reason != "stop":
            yield event.token_id


def stream_text(
    model: "TransformerLM",
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    settings: GenerationSettings,
    *,
    decoder: Decoder | None = None,
) -> Iterator[str]:
    """The text of the continuation as soon as it is certain. Texts get a BOS in front, like documents; ids do not."""
    ids = encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt
    for event in stream_events(model, ids, settings, tokenizer=tokenizer, decoder=decoder):
        if event.text:
            yield event.text


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """BOS followed by the ids of `text`.

    Raises:
        PipelineError: the text is empty or not valid UTF-8.
    """
    return tokenizer.encode(check_text(prompt), add_bos=True)


def generate_batch(
    model: "TransformerLM",
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    tokenizer: Tokenizer | None = None,
    max_rows: int = 32,
    decoder: Decoder | None = None,
    on_finished: Callable[[], object] | None = None,
) -> list[list[int]]:
    """The new tokens of every prompt, with the final EOS (the tokenizer's, or the model's own without a tokenizer).

    Up to rounding, continuations do not depend on the other prompts. With a seed, prompt i has its own generator,
    seeded with ``seed + i``. `max_rows` prompts run in parallel; when one is done, the next takes its place.

    Args:
        on_finished: called after each finished continuation, for a progress bar.
    """
    if not prompts:
        return []
    longest = max(len(prompt) for prompt in prompts) + settings.max_length
    rows = min(max_rows, len(prompts))
    batch = BatchGenerator(model, tokenizer, max_rows=rows, max_length=longest, decoder=decoder)
    places: dict[int, int] = {}
    results: list[list[int]] = [[] for _ in prompts]
    while len(places) < len(prompts) or batch.num_rows:
        while len(places) < len(prompts) and batch.num_rows < batch.max_rows:
            place = len(places)
            seed = None if settings.seed is None else settings.seed + place
            places[batch.join(prompts[place], replace(settings, seed=seed))] = place
        for event in batch.step():
            results[places[event.row]].append(event.token_id)
            if event.finish_reason and on_finished:
                on_finished()
    return results


def generate(
    model: "TransformerLM",
    prompt_ids: Tensor | Sequence[int],
    *,
    attention_mask: Tensor | None = None,
    **options: Unpack[GenerateOptions],
) -> Tensor:
    """The prompt and its continuation: (T,) → (T + N,), (B, T) → (B, T + N), shorter rows padded with EOS.

    A row ends at `model.eos_id`, which comes from the checkpoint. A new model has none, so every row gets `max_length`
    tokens.

    Args:
        attention_mask: (B, T), 0 for padding on either side; padding stays in the result but is not read.
        options: fields of `GenerationSettings`; `max_length` counts new tokens. Nothing is added to the prompt.

    Raises:
        PipelineError: an unknown option, or an invalid value or prompt.
    """
    _refuse_unknown(options)
    settings = GenerationSettings(**options)
    if isinstance(prompt_ids, str):
        raise PipelineError(
            "generate() expects token ids, but the prompt is a string; use tokenizer.encode(text, add_bos=True)"
        )
    prompt = torch.as_tensor(prompt_ids)
    rows = prompt if prompt.dim() == 2 else prompt[None]  # (B, T)
    mask = torch.ones_like(rows) if attention_mask is None else attention_mask.to(rows.device)
    prompts = [row[kept.bool()].tolist() for row, kept in zip(rows, mask, strict=True)]
    new = generate_batch(model, prompts, settings)
    longest = max(len(tokens) for tokens in new)
    padding = 0 if model.eos_id is None else model.eos_id  # without an EOS, all rows have the same length
    filled = [tokens + [padding] * (longest - len(tokens)) for tokens in new]
    result = torch.cat([rows, torch.tensor(filled, dtype=rows.dtype, device=rows.device)], dim=1)
    return result if prompt.dim() == 2 else result[0]


def _refuse_unknown(options: Mapping[str, object]) -> None:
    """Raise PipelineError for an unknown option, and suggest the intended name."""
    known = list(GenerationSettings.__dataclass_fields__)
    for name in options:
        if name not in known:
            hint = f"; did you mean {_ELSEWHERE[name]!r}?" if name in _ELSEWHERE else did_you_mean(name, known)
            raise PipelineError(f"generate() has no option {name!r}{hint}; valid options are: {', '.join(known)}")
