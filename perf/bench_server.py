"""Load the server with 1 to 64 clients, next to llama.cpp's server with the same weights; time a tenth turn.

    python3 -m perf.bench_server                                     # a 25M model with random weights
    python3 -m perf.bench_server --llama-server PATH/llama-server    # and llama.cpp, taking turns
    python3 -m perf.bench_server --checkpoint latest --device cuda --clients 16 --rounds 5

Each server runs in its own process. Every client sends one request after another: a random prompt of 16 to 128 tokens,
64 new tokens, temperature 0.8, top-k 50, top-p 0.95. llama.cpp gets the exported GGUF file in float32, as many slots as
`server.max_batch`, and continuous batching, its default. The figures are medians over the rounds. On a machine that is
busy with other work, compare the tokens per second of processor time, and use `--threads 1`.
"""

import argparse
import asyncio
import itertools
import math
import os
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16, 64], help="none: skip the load")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a measurement (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens in each completion (%(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="turns of the conversation; 0: skip it (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of each server (default: one per core)")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting for our server, such as generation.compile=on"
    )
    args = parser.parse_args()
    options = list(itertools.chain.from_iterable(("--set", setting) for setting in args.set))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or str(random_checkpoint(Path(folder)))
        if args.clients:
            measure_load(checkpoint, Path(folder), options, args)
        if args.turns:
            measure_conversation(checkpoint, options, args)


def measure_load(checkpoint: str, folder: Path, options: Sequence[str], args: argparse.Namespace) -> None:
    """Print a row for each number of clients and each server. The servers take turns."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running_server(checkpoint, args.device, [*options, *extra], args.threads))
            for name, extra in OURS.items()
            if args.device == "cpu" or not extra
        }
        if args.llama_server:
            gguf = export_gguf(checkpoint, folder)
            servers[LLAMA] = stack.enter_context(running_llama_server(args.llama_server, gguf, args.threads))
        print(
            "| clients | server | tokens/s | × llama.cpp | tokens per processor second | × llama.cpp "
            "| first token p50 | p95 | between tokens p95 | fairness |"
        )
        print("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for server in servers.values():
            asyncio.run(run_clients(server.url, clients=4, seconds=1, max_tokens=args.tokens, seed=0))  # warm up
        for clients in args.clients:
            loads: dict[str, list[Load]] = {name: [] for name in servers}
            for seed in range(1, args.rounds + 1):
                for name, server in servers.items():
                    wait_until_idle()
                    loads[name].append(measure(server, clients, seed, args))
            print_rows(clients, loads)


def measure(server: "RunningServer", clients: int, seed: int, args: argparse.Namespace) -> Load:
    seconds = 2 * args.seconds if clients > SLOTS else args.seconds  # so that those that wait get their turn
    before = server.processor_seconds()
    load = asyncio.run(run_clients(server.url, clients=clients, seconds=seconds, max_tokens=args.tokens, seed=seed))
    load.processor_seconds = server.processor_seconds() - before
    return load


def wait_until_idle() -> None:
    """Let servers notice that the clients of the last measurement have left."""
    time.sleep(0.5)


def print_rows(clients: int, loads: Mapping[str, Sequence[Load]]) -> None:
    for name, rounds in loads.items():
        speed, ratio = median_and_ratio(rounds, loads.get(LLAMA), lambda load: load.tokens_per_second)
        work, work_ratio = median_and_ratio(rounds, loads.get(LLAMA), lambda load: load.tokens_per_processor_second)
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
            f"| {clients} | {name} | {speed:.0f} | {ratio} | {work:.0f} | {work_ratio} "
            f"| {first:.0f} ms | {late:.0f} ms | {gap:.0f} ms | {fairness:.2f} |",
            flush=True,
        )


def median_and_ratio(
    rounds: Sequence[Load], peers: Sequence[Load] | None, figure: Callable[[Load], float]
) -> tuple[float, str]:
    """The median of a figure, and of its ratios to the peer's in the same round, which other work slows down alike."""
    ratio = ""
    if peers:
        pairs = zip(map(figure, rounds), map(figure, peers), strict=True)
        ratio = f"{statistics.median(ours / theirs if theirs else math.nan for ours, theirs in pairs):.2f}"
    return statistics.median(map(figure, rounds)), ratio


def measure_conversation(checkpoint: str, options: Sequence[str], args: argparse.Namespace) -> None:
    """Print the time to the first token of each turn with and without the prefix cache."""
    off = [*options, "--set", "server.prefix_cache_mb=0"]
    with ExitStack() as stack:
        urls = [
            stack.enter_context(running_server(checkpoint, args.device, variant, args.threads)).url
            for variant in (options, off)
        ]
        times: list[list[list[float]]] = [[], []]
        for seed in range(args.rounds + 1):  # the first round is a warm-up
            for url, found in zip(urls, times, strict=True):
                found.append(asyncio.run(converse(url, turns=args.turns, seed=seed)))
    cached, plain = ([statistics.median(values) * 1000 for values in zip(*found[1:], strict=True)] for found in times)
    print("\n| turn | first token, prefix cache | without | ratio |\n|---:|---:|---:|---:|")
    for turn in sorted({1, max(1, args.turns // 2), args.turns}):
        known, unknown = cached[turn - 1], plain[turn - 1]
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

    def processor_seconds(self) -> float:
        """Time of the process on all cores so far; 0 where there is no /proc."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_server(
    checkpoint: str, device: str, options: Sequence[str] = (), threads: int | None = None
) -> Iterator[RunningServer]:
    """server.py in its own process, on a free port."""
    command = [sys.executable, str(CHECKOUT / "server.py"), "--checkpoint", f"m={checkpoint}", *options]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command += ["--port", "0", "--device", device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            url = next(found[1] for line in server.stdout if (found := re.search(r"listening on (\S+)", line)))
            yield RunningServer(url, server.pid)
        finally:
            server.terminate()


@contextmanager
def running_llama_server(program: str, gguf: Path, threads: int | None) -> Iterator[RunningServer]:
    """llama.cpp's server with the same number of slots and the same context in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    count = str(threads or os.cpu_count())
    command = [program, "--model", str(gguf), "--port", str(port), "--parallel", str(SLOTS)]
    command += ["--ctx-size", str(SLOTS * CONTEXT), "--threads", count, "--threads-batch", count]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while not is_healthy(url):
                if server.poll() is not None:
                    raise SystemExit(f"error: {' '.join(command)} ended with exit code {server.returncode}")
                time.sleep(0.1)
            yield RunningServer(url, server.pid)
        finally:
            server.terminate()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


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
    """A checkpoint of the default model with random weights and a tokenizer of 400 pieces, filled up to 32,016.

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
    trained = WikipediaTokenizer.train([folder / "words.txt"], ORDINARY_IDS.stop, folder / "tokenizer").vocabulary
    config = load_config(settings=[f"paths.tokenizer_dir={folder / 'tokenizer'}"])
    unused = (f"<unused_{token_id}>" for token_id in range(ORDINARY_IDS.stop, config.model.vocab_size))
    vocabulary = replace(trained, pieces=(*trained.pieces, *unused))
    tokenizer = WikipediaTokenizer.from_vocabulary(vocabulary, folder / "tokenizer")
    tokenizer.save()
    torch.manual_seed(1)
    model = create_model(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
        model.model.embed_tokens.weight[: ORDINARY_IDS.start] = 0
        model.model.embed_tokens.weight[ORDINARY_IDS.stop :] = 0
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
