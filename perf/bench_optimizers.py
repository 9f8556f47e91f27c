"""Compare Muon with AdamW on the same tokens in the same order, with several seeds.

    python3 perf/bench_optimizers.py --config my.json --output /tmp/optimizers --seeds 1 2 3

Each optimizer's learning rate is chosen on the first seed; then every seed is trained with the best rate. The last
column is the fraction of AdamW's token budget that Muon needed to match AdamW's final validation loss. Muon's rate had
not decayed by then, so the share is an upper bound.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.formats.logged_metrics import validation_losses  # noqa: E402
from utils.terminal import format_table  # noqa: E402

Curve = list[tuple[float, float]]


def main() -> None:
    args = parse_args()
    adamw_rate = best_rate("adamw", args.adamw_rates, args, adamw_rate=args.adamw_rates[0])
    rates = {"adamw": adamw_rate, "muon": best_rate("muon", args.muon_rates, args, adamw_rate=adamw_rate)}
    rows = [["seed", f"AdamW {rates['adamw']:g}", f"Muon {rates['muon']:g}", "tokens for the same loss"]]
    shares = []
    for seed in args.seeds:
        curves = {name: train(name, rates[name], seed, args, adamw_rate=adamw_rate) for name in rates}
        shares.append(share_of_tokens(curves["muon"], curves["adamw"]))
        rows.append([str(seed), f"{curves['adamw'][-1][1]:.4f}", f"{curves['muon'][-1][1]:.4f}", f"{shares[-1]:.0%}"])
    print(format_table(rows, right=(1, 2, 3)))
    spread = f" ± {stdev(shares):.1%}" if len(shares) > 1 else ""
    print(f"Muon needs {mean(shares):.1%}{spread} of AdamW's tokens")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="model, dataset and training, as for train.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for logs; finished runs are not repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--adamw-rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--muon-rates", type=float, nargs="+", default=[2.5e-3, 5e-3, 1e-2])
    return parser.parse_args()


def best_rate(optimizer: str, rates: list[float], args: argparse.Namespace, *, adamw_rate: float) -> float:
    """The rate with the lowest final validation loss on the first seed."""
    found = {rate: train(optimizer, rate, args.seeds[0], args, adamw_rate=adamw_rate)[-1][1] for rate in rates}
    print(f"{optimizer}: " + ", ".join(f"{rate:g} → {loss:.4f}" for rate, loss in found.items()), flush=True)
    return min(found, key=found.get)


def train(optimizer: str, rate: float, seed: int, args: argparse.Namespace, *, adamw_rate: float) -> Curve:
    """(step, validation loss) over the run; every step has the same number of tokens.

    Args:
        adamw_rate: the learning rate of the parameters that Muon leaves to AdamW.
    """
    folder = args.output / f"{optimizer}_{rate:g}_{seed}"
    if not (folder / "done").exists():
        settings = {
            "paths.log_dir": folder / "logs",
            "paths.checkpoint_dir": folder / "checkpoints",
            "training.optimizer": optimizer,
            "training.seed": seed,
            "training.learning_rate": rate if optimizer == "adamw" else adamw_rate,
            "training.min_learning_rate": 0.0,
            "training.sample_prompts": "[]",
        }
        if optimizer == "muon":
            settings["training.muon_learning_rate"] = rate
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command = [sys.executable, str(ROOT / "train.py"), "--config", args.config, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / "done").touch()
    return validation_losses(next((folder / "logs" / "raw_metrics").glob("*.jsonl")))


def share_of_tokens(faster: Curve, slower: Curve) -> float:
    """The share of steps after which `faster` is as low as `slower` at its end, interpolated between validations."""
    steps, target = slower[-1]
    before = faster[0]
    for point in faster:
        if point[1] <= target:
            (x0, y0), (x1, y1) = before, point
            return (x1 if y0 == y1 else x0 + (x1 - x0) * (y0 - target) / (y0 - y1)) / steps
        before = point
    return float("nan")


if __name__ == "__main__":
    main()
