"""Measure time and memory of the output projection with its cross-entropy, forward and backward.

    python3 perf/bench_head_loss.py --rows 3072 --width 384 --vocabulary 32016 --dtype bfloat16

Plain: all logits at once. Chunked: `pipeline.modeling.head_loss`. Each variant runs in its own process. Memory is the
process's peak above what it held before the first pass; the error is that of the weight's gradient against float32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.modeling.head_loss import cross_entropy_sum, head_loss_sum  # noqa: E402
from pipeline.training.cpu_settings import keep_freed_memory, use_fast_float32_products  # noqa: E402
from utils.devices import peak_memory, resolve_device  # noqa: E402
from utils.terminal import format_bytes, format_table  # noqa: E402


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy_sum(hidden @ weight.to(hidden.dtype).T, targets)


VARIANTS = {
    "plain": plain,
    "plain, compiled": torch.compile(plain),
    "chunked": head_loss_sum,
    "chunked, compiled": lambda *tensors: head_loss_sum(*tensors, compiled=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3072)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=32_016)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    results = {name: run_variant(name) for name in VARIANTS}
    rows = [["", "ms", "against plain", "peak memory", "error of the gradient"]]
    for name, result in results.items():
        ratio = results["plain"]["seconds"] / result["seconds"]
        memory = format_bytes(result["memory"])
        rows.append([name, f"{result['seconds'] * 1000:.0f}", f"{ratio:.2f}", memory, f"{result['error']:.1e}"])
    print(format_table(rows, right=range(1, 5)))


def run_variant(name: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--variant", name]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, float]:
    device = resolve_device(args.device)
    if device.type == "cpu":
        keep_freed_memory()
        use_fast_float32_products()
    torch.manual_seed(0)
    hidden = torch.randn(args.rows, args.width, device=device).to(getattr(torch, args.dtype)).requires_grad_()
    weight = (torch.randn(args.vocabulary, args.width, device=device) * 0.05).requires_grad_()
    targets = torch.randint(0, args.vocabulary, (args.rows,), device=device)
    before = peak_memory(device)

    def once() -> float:
        hidden.grad = weight.grad = None
        start = clock()
        (VARIANTS[args.variant](hidden, weight, targets) / args.rows).backward()
        weight.grad[0, 0].item()  # waits for the device
        return clock() - start

    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    for _ in range(2):
        once()
    seconds = statistics.median(once() for _ in range(args.repeats))
    memory = peak_memory(device) - before
    found = weight.grad.clone()
    (plain(hidden.detach().float(), weight, targets) / args.rows).backward()
    exact = weight.grad - found
    return {"seconds": seconds, "memory": memory, "error": ((found - exact).norm() / exact.norm()).item()}


if __name__ == "__main__":
    main()
