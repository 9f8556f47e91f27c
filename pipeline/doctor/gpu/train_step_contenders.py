"""One training step, ours and others', at the same shape: its time, first and later, and its memory.

    timing = time_steps(ours(Workload(model, ids, dtype="bfloat16", compiled=True)), ids.device, steps=10)
    python -m pipeline.doctor.gpu.train_step_contenders nanogpt --folder ~/nanoGPT --batch-size 12 --context 256 …

Each contender is a function that builds a model and returns what makes one step of forward, backward and AdamW. Others'
code is not part of the project: it is read from the folder of a clone. One contender a process, as each has its own
idea of the module `model`.
"""

import argparse
import contextlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pipeline.doctor.gpu.llama_config import llama_config
from pipeline.modeling.config import ModelConfig
from pipeline.training.config import TrainingConfig
from utils.devices import peak_memory, resolve_device

Step = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """What every contender is given; `folder` is the clone of its code, "" for ours and for installed packages."""

    model: ModelConfig
    ids: torch.Tensor  # (B, T), on the device
    dtype: str  # bfloat16 or float32
    compiled: bool
    folder: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds of the first step, which compiles, and of the median later one; the peak memory in bytes."""

    first: float
    median: float
    memory: float


def ours(work: Workload) -> Step:
    """What train.py runs: `prepare_for_training` and the optimizer that the configuration names."""
    from model import TransformerLM
    from pipeline.training.optimizers import make_optimizers
    from pipeline.training.prepare_model import prepare_for_training

    ids = work.ids
    attention = "flash" if work.dtype == "bfloat16" else "any"  # there are no flash kernels for float32
    kind = "on" if work.compiled else "off"
    training = TrainingConfig(device=ids.device.type, dtype=work.dtype, compile=kind, attention=attention)
    model = TransformerLM(work.model).to(ids.device).train()
    prepare_for_training(model, training, ids.device)
    optimizers = make_optimizers(model, training, ids.device)
    count = torch.tensor(float(ids[:, 1:].numel()), device=ids.device)

    def step() -> torch.Tensor:
        loss: torch.Tensor = model(ids, labels=ids, num_tokens=count, return_logits=False)["loss"]
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def transformers(work: Workload) -> Step:
    """Hugging Face's Llama with autocast, SDPA and the fused AdamW."""
    from transformers import LlamaForCausalLM

    ids = work.ids
    config = llama_config(work.model)
    config._attn_implementation = "sdpa"
    model: nn.Module = LlamaForCausalLM(config)
    model.to(ids.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if work.compiled else model
    return _autocast_step(lambda: forward(input_ids=ids, labels=ids, use_cache=False).loss, optimizer, work)


def nanogpt(work: Workload) -> Step:
    """nanoGPT's model, its own optimizer setting and its own training loop's autocast; no GQA there."""
    sys.modules.pop("model", None)
    sys.path.insert(0, work.folder)
    theirs = importlib.import_module("model")
    ids = work.ids
    config = theirs.GPTConfig(
        block_size=ids.shape[1],
        vocab_size=work.model.vocab_size,
        n_layer=work.model.num_hidden_layers,
        n_head=work.model.num_attention_heads,
        n_embd=work.model.hidden_size,
        dropout=0.0,
        bias=False,
    )
    with contextlib.redirect_stdout(sys.stderr):
        model = theirs.GPT(config).to(ids.device).train()
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), ids.device.type)
    forward = torch.compile(model) if work.compiled else model
    targets = ids.roll(-1, 1).contiguous()
    return _autocast_step(lambda: forward(ids, targets)[1], optimizer, work)


def nanochat(work: Workload) -> Step:
    """nanochat's model (value embeddings, ReLU²) with its own optimizer; NANOCHAT_DTYPE is set by the caller."""
    sys.path.insert(0, work.folder)
    theirs = importlib.import_module("nanochat.gpt")
    ids = work.ids
    config = theirs.GPTConfig(
        sequence_len=ids.shape[1],
        vocab_size=work.model.vocab_size,
        n_layer=work.model.num_hidden_layers,
        n_head=work.model.num_attention_heads,
        n_kv_head=work.model.num_key_value_heads,
        n_embd=work.model.hidden_size,
        window_pattern="L",
    )
    with contextlib.redirect_stdout(sys.stderr):
        with torch.device("meta"):
            model = theirs.GPT(config)
        model.to_empty(device=ids.device)
        model.init_weights()
        optimizer = model.setup_optimizer()
    forward = torch.compile(model, dynamic=False) if work.compiled else model
    targets = ids.roll(-1, 1).contiguous()

    def step() -> torch.Tensor:
        loss: torch.Tensor = forward(ids, targets)
        torch.autograd.backward(loss)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss

    return step


CONTENDERS: dict[str, Callable[[Workload], Step]] = {
    "ours": ours,
    "transformers": transformers,
    "nanogpt": nanogpt,
    "nanochat": nanochat,
}


def _autocast_step(loss_of: Step, optimizer: torch.optim.Optimizer, work: Workload) -> Step:
    kind = work.ids.device.type

    def step() -> torch.Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=work.dtype == "bfloat16"):
            loss = loss_of()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def random_ids(model: ModelConfig, rows: int, length: int, device: torch.device) -> torch.Tensor:
    """Ids (rows, length), always the same."""
    torch.manual_seed(0)
    return torch.randint(0, model.vocab_size, (rows, length), device=device)


def time_steps(
    step: Step, device: torch.device, *, steps: int, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """The first step, two that do not count, and then the median of `steps`."""

    def seconds() -> float:
        start = clock()
        step().item()  # waits for the device
        return clock() - start

    first = seconds()
    for _ in range(2):
        seconds()
    return Timing(first, statistics.median(seconds() for _ in range(steps)), peak_memory(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--shape", required=True, help="a ModelConfig as JSON")
    parser.add_argument("--folder", default="", help="the contender's own code")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    shape = ModelConfig(**json.loads(args.shape))
    ids = random_ids(shape, args.batch_size, args.context, resolve_device(args.device))
    work = Workload(shape, ids, dtype=args.dtype, compiled=not args.eager, folder=args.folder)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    print(json.dumps(asdict(time_steps(CONTENDERS[args.contender](work), ids.device, steps=args.steps, clock=clock))))


if __name__ == "__main__":
    main()
