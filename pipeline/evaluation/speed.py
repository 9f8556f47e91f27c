"""How fast a model reads and writes, what it weighs, and a sample of what it writes."""

import time
from typing import TYPE_CHECKING, Any

import torch

from pipeline.generation.generate import encode_prompt, stream_text, stream_tokens
from pipeline.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from model import TransformerLM
    from tokenizer import WikipediaTokenizer

SAMPLE_PROMPT = "The city was founded in"
_ROUNDS = 3


def measure_speed(model: "TransformerLM", tokenizer: "WikipediaTokenizer") -> dict[str, Any]:
    """Tokens a second, the median of a few rounds: reading in a batch, and writing one text."""
    device = model.device
    length = min(256, model.config.context_length)
    ids = torch.zeros((4, length), dtype=torch.long, device=device)
    with torch.inference_mode():
        reading = _median_seconds(lambda: model.hidden_states(ids), device)
    prompt = encode_prompt(tokenizer, SAMPLE_PROMPT)
    new = min(32, model.config.context_length - len(prompt))
    settings = GenerationSettings(max_length=new, temperature=1.0, top_k=0, top_p=1.0, seed=0, ignore_eos=True)
    writing = _median_seconds(lambda: sum(1 for _ in stream_tokens(model, prompt, settings)), device)
    return {
        "parameters": model.num_parameters(),
        "weight_bytes": sum(each.numel() * each.element_size() for each in model.parameters()),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "reading_tokens_per_second": ids.numel() / reading,
        "writing_tokens_per_second": new / writing,
    }


def write_sample(model: "TransformerLM", tokenizer: "WikipediaTokenizer") -> dict[str, str]:
    room = model.config.context_length - len(encode_prompt(tokenizer, SAMPLE_PROMPT))
    settings = GenerationSettings(max_length=min(60, room), temperature=0.8, top_k=50, top_p=0.95, seed=0)
    return {"prompt": SAMPLE_PROMPT, "text": "".join(stream_text(model, tokenizer, SAMPLE_PROMPT, settings))}


def _median_seconds(work: Any, device: torch.device) -> float:
    seconds = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[_ROUNDS // 2]  # the first round warms up
