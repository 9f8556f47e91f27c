"""Compare fine-tuning with and without packing: learned tokens per second, on the same conversations.

    python3 lima_tokenizer.py --input chats.jsonl --set paths.tokenizer_dir=DIR --set paths.post_training_dir=data/chats
    python3 perf/bench_packing.py --set paths.post_training_dir=data/chats --set model.vocab_size=32016

The model has the configured shape and random weights, and is not compiled, as in `post_training.py`. A step is the
forward and the backward pass, clipping and AdamW, with `sft.batch_size` rows: one conversation each, or as many as fit
when packed. Both take turns for `--seconds` in each round; the table shows medians over the rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from model import TransformerLM, create_model  # noqa: E402
from pipeline.configuration import load_config_from  # noqa: E402
from pipeline.modeling.head_loss import IGNORED  # noqa: E402
from pipeline.training.prepare_model import prepare_for_training  # noqa: E402
from pipeline.tuning.dataset import SftDataset  # noqa: E402
from pipeline.tuning.loader import ConversationLoader  # noqa: E402
from utils.cli import stage_parser  # noqa: E402
from utils.devices import describe_device, resolve_device  # noqa: E402
from utils.terminal import format_table  # noqa: E402

Batch = dict[str, Tensor]


@dataclass
class Timing:
    """What was trained in one round."""

    seconds: float = 0.0
    learned: int = 0
    tokens: int = 0
    positions: int = 0  # including padding
    steps: int = 0


def main() -> None:
    args = parse_args()
    config = load_config_from(args)
    device = resolve_device(args.device)
    data = SftDataset.open(config.paths.post_training_dir)
    model = create_model(config).to(device)
    chosen = prepare_for_training(model, replace(config.training, compile="off"), device, varying_lengths=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.sft.learning_rate, fused=True)
    rows, size = np.arange(len(data.ids)), config.sft.batch_size
    kinds = {"one conversation a row": False, "packed": True}
    batches = {
        name: endless(ConversationLoader(data, rows, batch_size=size, device=device, seed=0, packing=packing))
        for name, packing in kinds.items()
    }
    results: dict[str, list[Timing]] = {name: [] for name in batches}
    for number in range(args.rounds + 1):
        for name, stream in batches.items():
            timing = train(model, optimizer, stream, seconds=args.seconds if number else 0.0)
            if number:  # the first round warms up
                results[name].append(timing)
    print(f"{describe_device(device)}, {chosen}, {model.num_parameters():,} parameters, {size} rows")
    print(f"{len(data.ids):,} conversations, {data.lengths.mean():.0f} tokens on average, at most {data.ids.shape[1]}")
    print(table(results))


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each of both, in each round (%(default)s)")
    return parser.parse_args()


def endless(loader: ConversationLoader) -> Iterator[Batch]:
    """Batches of epoch after epoch."""
    while True:
        yield from loader


def train(
    model: TransformerLM, optimizer: torch.optim.Optimizer, batches: Iterator[Batch], *, seconds: float
) -> Timing:
    """Train for at least `seconds`, and at least one step."""
    timing = Timing()
    start = time.perf_counter()
    while not timing.steps or timing.seconds < seconds:
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        model(**batch, return_logits=False)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        timing.learned += int((batch["labels"] != IGNORED).sum())
        timing.tokens += num_tokens(batch)
        timing.positions += batch["input_ids"].numel()
        timing.steps += 1
        timing.seconds = time.perf_counter() - start
    return timing


def num_tokens(batch: Batch) -> int:
    """The tokens of the conversations; each row ends with a learned token, and padding follows."""
    if "segment_ids" in batch:
        return int((batch["segment_ids"] != 0).sum())
    learned = (batch["labels"] != IGNORED).int()
    return int((learned.shape[1] - learned.flip(1).argmax(1)).sum())


def table(results: dict[str, list[Timing]]) -> str:
    rows = [["rows", "learned tokens/s", "speedup", "tokens/s", "padding", "learned tokens a step"]]
    first = 0.0
    for name, timings in results.items():
        speed = statistics.median(timing.learned / timing.seconds for timing in timings)
        first = first or speed
        tokens = statistics.median(timing.tokens / timing.seconds for timing in timings)
        padding = 1 - sum(timing.tokens for timing in timings) / sum(timing.positions for timing in timings)
        learned = sum(timing.learned for timing in timings) / sum(timing.steps for timing in timings)
        rows.append(
            [name, f"{speed:,.0f}", f"{speed / first:.2f}", f"{tokens:,.0f}", f"{padding:.0%}", f"{learned:,.0f}"]
        )
    return format_table(rows, right=range(1, 6))


if __name__ == "__main__":
    main()
