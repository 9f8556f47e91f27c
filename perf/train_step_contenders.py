"""The training steps that `bench_train_step.py` compares: one contender per process, one line of JSON as the result.

Each function builds a model of the given shape and returns a step: forward, backward, optimizer.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from perf.llama_config import llama_config  # noqa: E402
from pipeline.modeling.config import ModelConfig  # noqa: E402
from pipeline.training.config import TrainingConfig  # noqa: E402
from utils.devices import peak_memory, resolve_device  # noqa: E402

Step = Callable[[], torch.Tensor]


def ours(shape: ModelConfig, ids: torch.Tensor, dtype: str, compiled: bool) -> Step:
    """What train.py runs: `prepare_for_training` and the optimizer that the configuration names."""
    from model import TransformerLM
    from pipeline.training.optimizers import make_optimizers
    from pipeline.training.prepare_model import prepare_for_training

    attention = "flash" if dtype == "bfloat16" else "any"  # there are no flash kernels for float32
    kind = "on" if compiled else "off"
    training = TrainingConfig(device=ids.device.type, dtype=dtype, compile=kind, attention=attention)
    model = TransformerLM(shape).to(ids.device).train()
    prepare_for_training(model, training, ids.device)
    optimizers = make_optimizers(model, training, ids.device)
    count = torch.tensor(float(ids[:, 1:].numel()), device=ids.device)

    def step() -> torch.Tensor:
        loss = model(ids, labels=ids, num_tokens=count, return_logits=False)["loss"]
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def transformers(shape: ModelConfig, ids: torch.Tensor, dtype: str, compiled: bool) -> Step:
    """Hugging Face's Llama with autocast, SDPA and the fused AdamW."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama_config(shape, attn_implementation="sdpa")).to(ids.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if compiled else model
    return _autocast_step(lambda: forward(input_ids=ids, labels=ids, use_cache=False).loss, optimizer, ids, dtype)


def nanogpt(shape: ModelConfig, ids: torch.Tensor, dtype: str, compiled: bool, *, folder: str) -> Step:
    """nanoGPT's model with its own optimizer settings and its training loop's autocast; it has no GQA."""
    sys.modules.pop("model", None)
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    config = GPTConfig(
        block_size=ids.shape[1],
        vocab_size=shape.vocab_size,
        n_layer=shape.num_hidden_layers,
        n_head=shape.num_attention_heads,
        n_embd=shape.hidden_size,
        dropout=0.0,
        bias=False,
    )
    with contextlib.redirect_stdout(sys.stderr):
        model = GPT(config).to(ids.device).train()
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), ids.device.type)
    forward = torch.compile(model) if compiled else model
    targets = ids.roll(-1, 1).contiguous()
    return _autocast_step(lambda: forward(ids, targets)[1], optimizer, ids, dtype)


def nanochat(shape: ModelConfig, ids: torch.Tensor, dtype: str, compiled: bool, *, folder: str) -> Step:
    """nanochat's model (value embeddings, ReLU²) with its own optimizer; the caller sets NANOCHAT_DTYPE."""
    sys.path.insert(0, folder)
    from nanochat.gpt import GPT, GPTConfig

    config = GPTConfig(
        sequence_len=ids.shape[1],
        vocab_size=shape.vocab_size,
        n_layer=shape.num_hidden_layers,
        n_head=shape.num_attention_heads,
        n_kv_head=shape.num_key_value_heads,
        n_embd=shape.hidden_size,
        window_pattern="L",
    )
    with contextlib.redirect_stdout(sys.stderr):
        with torch.device("meta"):
            model = GPT(config)
        model.to_empty(device=ids.device)
        model.init_weights()
        optimizer = model.setup_optimizer()
    forward = torch.compile(model, dynamic=False) if compiled else model
    targets = ids.roll(-1, 1).contiguous()

    def step() -> torch.Tensor:
        loss = forward(ids, targets)
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss

    return step


def _autocast_step(loss_of: Step, optimizer: torch.optim.Optimizer, ids: torch.Tensor, dtype: str) -> Step:
    def step() -> torch.Tensor:
        kind = ids.device.type
        with torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext():
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def measure(step: Step, ids: torch.Tensor, steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the first step and of the median later one, and the peak memory."""

    def seconds() -> float:
        start = clock()
        step().item()  # waits for the device
        return clock() - start

    first = seconds()
    for _ in range(2):
        seconds()
    median = statistics.median(seconds() for _ in range(steps))
    return {"first": first, "median": median, "memory": peak_memory(ids.device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=("ours", "transformers", "nanogpt", "nanochat"))
    parser.add_argument("--shape", required=True, help="a ModelConfig as JSON")
    parser.add_argument("--folder", help="the contender's own code")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    shape = ModelConfig(**json.loads(args.shape))
    ids = torch.randint(0, shape.vocab_size, (args.batch_size, args.context), device=resolve_device(args.device))
    folder = {"folder": args.folder} if args.folder else {}
    step = globals()[args.contender](shape, ids, args.dtype, not args.eager, **folder)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    print(json.dumps(measure(step, ids, args.steps, clock)))


if __name__ == "__main__":
    main()
