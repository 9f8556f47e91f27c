"""Load the server with 1 to 64 clients, next to llama.cpp's server with the same weights; time a tenth turn.

    python3 -m perf.bench_server                                     # a 25M model with random weights
    python3 -m perf.bench_server --llama-server PATH/llama-server    # and llama.cpp, taking turns
    python3 -m perf.bench_server --checkpoint latest --device cuda --clients 16 --rounds 5

Each server runs in its own process. Every client sends one request after another: a random prompt of 16 to 128 tokens,
64 new tokens, temperature 0.8, top-k 50, top-p 0.95. llama.cpp gets the exported GGUF file in float32, as many slots as
`server.max_batch`, and continuous batching, its default. The figures are medians over the rounds.
"""

import argparse
import asyncio
import itertools
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from perf.server_load import ORDINARY_IDS, Load, run_clients, stream_completion  # noqa: E402

SLOTS = 16  # server.max_batch
CONTEXT = 1024
OURS = {"ours, float32": [], "ours, int8": ["--set", "generation.quantize=int8"]}
LLAMA = "llama.cpp, float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a checkpoint file, a run folder, or latest (default: random weights)")
    parser.add_argument("--llama-server", metavar="PATH", help="llama.cpp's server program, to compare with")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a measurement (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens in each completion (%(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="turns of the conversation; 0: skip it (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting for our server, such as generation.compile=on"
    )
    args = parser.parse_args()
    options = ["--device", args.device, *itertools.chain.from_iterable(("--set", setting) for setting in args.set)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or str(random_checkpoint(Path(folder)))
        measure_load(checkpoint, Path(folder), options, args)
        if args.turns:
            measure_conversation(checkpoint, options, turns=args.turns, rounds=args.rounds)


def measure_load(checkpoint: str, folder: Path, options: Sequence[str], args: argparse.Namespace) -> None:
    """Print a row for each number of clients and each server. The servers take turns."""
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(running_server(checkpoint, args.device, [*options, *extra])).url
            for name, extra in OURS.items()
            if args.device == "cpu" or not extra
        }
        if args.llama_server:
            gguf = export_gguf(checkpoint, folder)
            urls[LLAMA] = stack.enter_context(running_llama_server(args.llama_server, gguf))
        print("| clients | server | tokens/s | × llama.cpp | first token p50 | p95 | between tokens p95 | fairness |")
        print("|---:|---|---:|---:|---:|---:|---:|---:|")
        for url in urls.values():
            asyncio.run(run_clients(url, clients=4, seconds=1, max_tokens=args.tokens, seed=0))  # warm up
        for clients in args.clients:
            loads: dict[str, list[Load]] = {name: [] for name in urls}
            for seed in range(1, args.rounds + 1):
                for name, url in urls.items():
                    wait_until_idle()
                    loads[name].append(
                        asyncio.run(
                            run_clients(url, clients=clients, seconds=args.seconds, max_tokens=args.tokens, seed=seed)
                        )
                    )
            print_rows(clients, loads)


def wait_until_idle() -> None:
    """Let servers notice that the clients of the last measurement have left."""
    time.sleep(0.5)


def print_rows(clients: int, loads: Mapping[str, Sequence[Load]]) -> None:
    for name, rounds in loads.items():
        speed = statistics.median(load.tokens_per_second for load in rounds)
        ratio = ""
        if LLAMA in loads:
            # Ratios within a round, so that other load on the machine affects both sides.
            pairs = zip(rounds, loads[LLAMA], strict=True)
            ratio = f"{statistics.median(a.tokens_per_second / max(b.tokens_per_second, 1e-9) for a, b in pairs):.2f}"
        first, late, gap = (
            statistics.median(values) * 1000
            for values in (
                [load.first_token(0.5) for load in rounds],
                [load.first_token(0.95) for load in rounds],
                [load.gap(0.95) for load in rounds],
            )
        )
        fairness = statistics.median(load.fairness for load in rounds)
        print(
            f"| {clients} | {name} | {speed:.0f} | {ratio} | {first:.0f} ms | {late:.0f} ms | {gap:.0f} ms "
            f"| {fairness:.2f} |",
            flush=True,
        )


def measure_conversation(checkpoint: str, options: Sequence[str], *, turns: int, rounds: int) -> None:
    """Print the time to the first token of each turn with and without the prefix cache."""
    device, *rest = options[1:]
    off = ["--set", "server.prefix_cache_mb=0"]
    with running_server(checkpoint, device, rest) as cached, running_server(checkpoint, device, [*rest, *off]) as plain:
        times: dict[str, list[list[float]]] = {cached.url: [], plain.url: []}
        for seed in range(rounds + 1):
            for url, found in times.items():
                found.append(asyncio.run(converse(url, turns=turns, seed=seed)))
        medians = [
            [statistics.median(values) * 1000 for values in zip(*found[1:], strict=True)] for found in times.values()
        ]
    print("\n| turn | first token, prefix cache | without | ratio |\n|---:|---:|---:|---:|")
    for turn in sorted({1, turns // 2, turns}):
        known, unknown = medians[0][turn - 1], medians[1][turn - 1]
        print(f"| {turn} | {known:.0f} ms | {unknown:.0f} ms | {unknown / known:.1f} |")


async def converse(url: str, *, turns: int, seed: int) -> list[float]:
    """Seconds to the first token of each turn: questions of 32 tokens, answers of 48."""
    draw = random.Random(seed)
    ids = [1]
    times = []
    for _ in range(turns):
        ids += draw.choices(ORDINARY_IDS, k=32)
        start = time.perf_counter()
        answer: list[int] = []
        body = {"prompt": ids, "max_tokens": 48, "seed": seed, "return_token_ids": True}
        async for chunk in stream_completion(url, body):
            tokens = chunk["choices"][0].get("token_ids", [])  # the first chunk only has the prompt's
            if tokens and not answer:
                times.append(time.perf_counter() - start)
            answer += tokens
        ids = ids + answer
    return times


@dataclass
class RunningServer:
    url: str
    pid: int


@contextmanager
def running_server(checkpoint: str, device: str, options: Sequence[str] = ()) -> Iterator[RunningServer]:
    """server.py in its own process, on a free port."""
    command = [sys.executable, str(CHECKOUT / "server.py"), "--checkpoint", f"m={checkpoint}", *options]
    with subprocess.Popen([*command, "--port", "0", "--device", device], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = next(found[1] for line in server.stdout if (found := re.search(r"listening on (\S+)", line)))
            yield RunningServer(url, server.pid)
        finally:
            server.terminate()


@contextmanager
def running_llama_server(program: str, gguf: Path) -> Iterator[str]:
    """llama.cpp's server with the same number of slots and the same context in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--model", str(gguf), "--port", str(port), "--parallel", str(SLOTS)]
    command += ["--ctx-size", str(SLOTS * CONTEXT), "--threads", str(cpu_count()), "--threads-batch", str(cpu_count())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while not is_healthy(url):
                if server.poll() is not None:
                    raise SystemExit(f"error: {' '.join(command)} ended with exit code {server.returncode}")
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def cpu_count() -> int:
    import torch

    return torch.get_num_threads()


def export_gguf(checkpoint: str, folder: Path) -> Path:
    """The checkpoint as a GGUF file in float32, as `export.py` writes it."""
    import torch

    from pipeline.configuration import load_config
    from pipeline.exporting.gguf_file import write_gguf_file
    from pipeline.generation.loading import load_for_inference

    path = folder / "model.gguf"
    write_gguf_file(load_for_inference(checkpoint, load_config()), path, dtype=torch.float32)
    return path


def random_checkpoint(folder: Path) -> Path:
    """A checkpoint of the default model with random weights and a tokenizer of 400 pieces.

    It never generates the end of a text, nor the single bytes of an incomplete character, which llama.cpp would hold
    back.
    """
    import torch

    from model import create_model
    from pipeline.configuration import load_config
    from pipeline.formats.checkpoint import write_checkpoint
    from pipeline.formats.checkpoint_tokenizer import describe_tokenizer
    from pipeline.formats.run_folders import LATEST_NAME
    from tokenizer import WikipediaTokenizer

    (folder / "words.txt").write_bytes(Path(__file__).read_bytes())
    tokenizer = WikipediaTokenizer.train([folder / "words.txt"], 400, folder / "tokenizer")
    tokenizer.save()
    config = load_config(settings=[f"paths.tokenizer_dir={folder / 'tokenizer'}"])
    torch.manual_seed(1)
    model = create_model(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.vocab_size :] = 0
        model.model.embed_tokens.weight[: tokenizer.vocab_size] *= 20
        model.model.embed_tokens.weight[: ORDINARY_IDS.start] = 0
    content = {
        "model": model.state_dict(),
        "config": config.to_dict(),
        "tokenizer": describe_tokenizer(tokenizer),
        "step": 0,
    }
    write_checkpoint(folder / LATEST_NAME, content)
    return folder / LATEST_NAME


if __name__ == "__main__":
    main()
