"""Soak the server for some minutes with clients that finish, leave early or send rubbish; watch errors and memory.

    python3 perf/bench_server_soak.py --minutes 5

The server runs in its own process on this machine, with a 25M model of random weights. The exit code is 1 if an answer
was wrong: none to a well-formed request, anything but a 4xx to rubbish, or a 5xx.
"""

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from perf.bench_server import random_checkpoint, running_server

RUBBISH = [
    b"",
    b"{",
    b"null",
    b"\xff\xfe\x00",
    b'{"prompt": ""}',
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "x", "temperature": NaN}',
    b'{"prompt": "x", "model": "nobody"}',
    b'{"prompt": "x", "stop": ["", "a"]}',
    b'{"prompt": [999999]}',
    b'{"messages": []}',
    b'{"prompt": "' + b"x" * 900_000 + b'"}',
    b"x" * 2_000_000,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=24)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(str(random_checkpoint(Path(folder))), "cpu") as server:
        counts, memory = asyncio.run(soak(server.url, server.pid, args))
    print("outcomes: " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    print("resident memory, MB: " + " ".join(f"{megabytes:.0f}" for megabytes in memory))
    return 1 if any(kind.startswith("wrong") for kind in counts) else 0


async def soak(url: str, pid: int, args: argparse.Namespace) -> tuple[collections.Counter, list[float]]:
    counts: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + args.minutes * 60
    async with httpx.AsyncClient(base_url=url, timeout=200, limits=httpx.Limits(max_connections=None)) as client:
        visitors = [asyncio.create_task(visit(client, counts, end, seed)) for seed in range(args.clients)]
        memory = []
        while time.monotonic() < end:
            await asyncio.sleep(args.minutes * 60 / 20)
            memory.append(resident_megabytes(pid))
        await asyncio.gather(*visitors)
        health = (await client.get("/health")).json()
        if (health["running"], health["waiting"]) != (0, 0):
            counts[f"wrong: {health} after all clients had left"] += 1
    return counts, memory


async def visit(client: httpx.AsyncClient, counts: collections.Counter, end: float, seed: int) -> None:
    chance = random.Random(seed)
    while time.monotonic() < end:
        behave = chance.choices([complete, leave_early, send_rubbish], weights=[4, 3, 3])[0]
        counts[await behave(client, chance)] += 1


async def complete(client: httpx.AsyncClient, chance: random.Random) -> str:
    body = {"prompt": "x " * chance.randint(1, 200), "max_tokens": chance.randint(1, 60), "seed": chance.randint(0, 9)}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code == 429:
        return "asked to try again later"
    whole = answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == body["max_tokens"]
    return "answered" if whole else f"wrong: {answer.status_code} {answer.text[:80]}"


async def leave_early(client: httpx.AsyncClient, chance: random.Random) -> str:
    body = {"prompt": "x", "max_tokens": 800, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code == 429:
            return "asked to try again later"
        remaining = chance.randint(0, 20)
        async for line in answer.aiter_lines():
            if '"error"' in line:
                return f"wrong: {line[:80]}"
            remaining -= 1
            if remaining < 0:
                break
    return "left early"


async def send_rubbish(client: httpx.AsyncClient, chance: random.Random) -> str:
    path = chance.choice(["/v1/completions", "/v1/chat/completions", "/v1/nothing"])
    answer = await client.post(path, content=chance.choice(RUBBISH), headers={"content-type": "application/json"})
    refused = 400 <= answer.status_code < 500 and answer.json()["error"]["message"]
    return f"refused {answer.status_code}" if refused else f"wrong: {answer.status_code} for rubbish"


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
