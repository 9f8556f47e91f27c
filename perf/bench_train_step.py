"""Time one training step, ours and others', with the same shape in the same run.

    python3 perf/bench_train_step.py --device cpu --batch-size 12 --context 256 --set model.num_hidden_layers=6 \\
        --set model.num_key_value_heads=6 --transformers --nanogpt ~/nanoGPT
    python3 perf/bench_train_step.py --device cuda --config configs/110m.json --context 1024 --nanogpt ~/nanoGPT \\
        --nanochat ~/nanochat

Each contender runs in its own process, with random ids and no loader; they take turns, `--rounds` times. The first
round starts with an empty compiler cache. The table shows medians over the rounds. Utilisation is (6 N + 12 L C T)
FLOPs per token against the device's dense bf16 peak, with our N for every contender. The code of nanoGPT and nanochat
is not part of this project: name the folder of a clone. Our own step needs only torch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.configuration import load_config_from, section_to_dict  # noqa: E402
from pipeline.modeling.flops import training_flops_per_token  # noqa: E402
from utils.cli import stage_parser  # noqa: E402
from utils.devices import describe_device, peak_flops, resolve_device  # noqa: E402
from utils.terminal import format_bytes, format_table  # noqa: E402


def main() -> None:
    args = parse_args()
    config = load_config_from(args)
    contenders: dict[str, str | None] = {"ours": None}
    if args.transformers:
        contenders["transformers"] = None
    contenders |= {name: getattr(args, name) for name in ("nanogpt", "nanochat") if getattr(args, name)}
    shape = json.dumps(section_to_dict(config.model) | {"max_position_embeddings": args.context})
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.rounds):
            for name, folder in contenders.items():
                results[name].append(run_contender(name, folder, shape, args, cache))
    device = resolve_device(args.device)
    print(f"{describe_device(device)}, {args.dtype}, {args.batch_size} × {args.context} tokens, {args.rounds} rounds")
    flops = training_flops_per_token(config.model, args.context)
    print(table(results, args.batch_size * args.context, flops, peak_flops(device)))


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="timed steps in each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor seconds, for a machine that is busy"
    )
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--transformers", action="store_true", help="also Hugging Face's Llama")
    parser.add_argument("--nanogpt", metavar="FOLDER", help="also nanoGPT, a clone")
    parser.add_argument("--nanochat", metavar="FOLDER", help="also nanochat, a clone")
    return parser.parse_args()


def run_contender(name: str, folder: str | None, shape: str, args: argparse.Namespace, cache: str) -> dict[str, float]:
    command = [sys.executable, "-m", "pipeline.doctor.gpu.train_step_contenders", name, "--shape", shape]
    command += ["--device", args.device, "--dtype", args.dtype, "--batch-size", str(args.batch_size)]
    command += ["--context", str(args.context), "--steps", str(args.steps), "--clock", args.clock]
    if folder:
        command += ["--folder", str(Path(folder).absolute())]
    if args.eager:
        command += ["--eager"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "NANOCHAT_DTYPE": args.dtype}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    output = done.stdout
    return json.loads(output.splitlines()[-1])


def table(results: dict[str, list[dict[str, float]]], tokens: int, flops_per_token: float, peak: float | None) -> str:
    speeds = {
        name: statistics.median(tokens / result["median"] for result in rounds) for name, rounds in results.items()
    }
    rows = [["", "tokens/s", "ours is faster by", "utilisation", "peak memory", "first step"]]
    for name, rounds in results.items():
        memory = statistics.median(result["memory"] for result in rounds)
        share = f"{speeds[name] * flops_per_token / peak:.1%}" if peak else "peak unknown"
        ratio = f"{speeds['ours'] / speeds[name]:.2f}"
        rows.append([name, f"{speeds[name]:,.0f}", ratio, share, format_bytes(memory), f"{rounds[0]['first']:.0f} s"])
    return format_table(rows, right=range(1, 6))


if __name__ == "__main__":
    main()
