"""Measure how fast a model reads and writes and how much memory it needs, and generate a sample."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pipeline.generation.generate import encode_prompt, stream_text, stream_tokens
from pipeline.generation.settings import GenerationSettings
from pipeline.tokenization.interface import Tokenizer

if TYPE_CHECKING:
    from model import TransformerLM

SAMPLE_PROMPT = "The city was founded in"
_ROUNDS = 3


def measure_speed(model: "TransformerLM", tokenizer: Tokenizer) -> dict[str, float | None]:
    """Tokens per second for reading a batch and for generating one text (medians of a few rounds), and memory in
    bytes."""
    device = model.device
    length = min(256, model.config.context_length)
    ids = torch.zeros((4, length), dtype=torch.long, device=device)
    with torch.inference_mode():
        reading = _median_seconds(lambda: model.hidden_states(ids), device)
    prompt = encode_prompt(tokenizer, SAMPLE_PROMPT)
    new_tokens = min(32, model.config.context_length - len(prompt))
    settings = GenerationSettings(max_length=new_tokens, temperature=1.0, top_k=0, top_p=1.0, seed=0, ignore_eos=True)
    writing = _median_seconds(lambda: sum(1 for _ in stream_tokens(model, prompt, settings)), device)
    return {
        "parameters": model.num_parameters(),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "reading_tokens_per_second": ids.numel() / reading,
        "writing_tokens_per_second": new_tokens / writing,
    }


def write_sample(model: "TransformerLM", tokenizer: Tokenizer) -> dict[str, str]:
    room = model.config.context_length - len(encode_prompt(tokenizer, SAMPLE_PROMPT))
    settings = GenerationSettings(max_length=min(60, room), temperature=0.8, top_k=50, top_p=0.95, seed=0)
    return {"prompt": SAMPLE_PROMPT, "text": "".join(stream_text(model, tokenizer, SAMPLE_PROMPT, settings))}


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[_ROUNDS // 2]  # the first round is a warm-up
