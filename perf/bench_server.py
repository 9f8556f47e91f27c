"""Measure the tokens per second that clients get from the server: one alone, then several at once.

    python3 perf/bench_server.py --clients 1 4 16                    # a 25M model with random weights
    python3 perf/bench_server.py --checkpoint latest --device cuda

The server runs in its own process; each client streams one completion.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a checkpoint file, a run folder, or latest (default: random weights)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=100, help="new tokens in each completion (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (%(default)s)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or str(random_checkpoint(Path(folder)))
        with running_server(checkpoint, args.device) as server:
            measure_all(server.url, args)


@dataclass
class RunningServer:
    url: str
    pid: int


@contextmanager
def running_server(checkpoint: str, device: str) -> Iterator[RunningServer]:
    """server.py in its own process, on a free port."""
    command = [sys.executable, str(CHECKOUT / "server.py"), "--checkpoint", f"m={checkpoint}"]
    with subprocess.Popen([*command, "--port", "0", "--device", device], stdout=subprocess.PIPE, text=True) as server:
        try:
            url = next(found[1] for line in server.stdout if (found := re.search(r"listening on (\S+)", line)))
            yield RunningServer(url, server.pid)
        finally:
            server.terminate()


def measure_all(url: str, args: argparse.Namespace) -> None:
    asyncio.run(measure(url, 1, 20))  # warm-up
    alone = None
    print("| clients | tokens/s, all | as a multiple of one | first token, median | of each client, tokens/s |")
    print("|---|---|---|---|---|")
    for clients in args.clients:
        rounds = sorted(asyncio.run(measure(url, clients, args.tokens)) for _ in range(args.rounds))
        total, first = rounds[len(rounds) // 2]
        alone = alone or total
        print(
            f"| {clients} | {total:.0f} | {total / alone:.2f} | {first * 1000:.0f} ms | {total / clients:.0f} |",
            flush=True,
        )


async def measure(url: str, clients: int, tokens: int) -> tuple[float, float]:
    """(tokens per second over all clients, median seconds to the first token)."""
    async with httpx.AsyncClient(timeout=600) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(*(complete(client, url, tokens, seed) for seed in range(clients)))
        seconds = time.perf_counter() - start
    firsts = sorted(first for _, first in answers)
    return sum(count for count, _ in answers) / seconds, firsts[len(firsts) // 2]


async def complete(client: httpx.AsyncClient, url: str, tokens: int, seed: int) -> tuple[int, float]:
    """(tokens received, seconds to the first one)."""
    body = {"prompt": f"The history of {seed} begins with", "max_tokens": tokens, "seed": seed, "stream": True}
    start = time.perf_counter()
    first = 0.0
    count = 0
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - start
                if "choices" in json.loads(line[6:]):
                    count += 1
    return count, first


def random_checkpoint(folder: Path) -> Path:
    """A checkpoint of the default model with random weights, which never ends a text, and a tokenizer of 400 pieces."""
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
        model.model.embed_tokens.weight[2] = 0
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
