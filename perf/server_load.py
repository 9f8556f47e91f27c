"""Load a completion server with clients that each send one request after another, and measure what they get.

    load = asyncio.run(run_clients(url, clients=16, seconds=8))
    print(load.tokens_per_second, load.first_token(0.5), load.gap(0.95), load.fairness)

The client reads raw sockets, because an HTTP library would take a large share of the two cores that it shares with the
server. Works with every server that streams OpenAI's completions, one chunk per token.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

ORDINARY_IDS = range(260, 400)  # the ids of random prompts: neither special nor single bytes


@dataclass
class Load:
    """What the clients measured, in seconds and tokens."""

    seconds: float
    processor_seconds: float = 0.0  # of the server
    first_tokens: list[float] = field(default_factory=list)  # from the request to its first token
    gaps: list[float] = field(default_factory=list)  # between two tokens of an answer
    tokens: list[int] = field(default_factory=list)  # of each client

    @property
    def tokens_per_second(self) -> float:
        return sum(self.tokens) / self.seconds

    @property
    def tokens_per_processor_second(self) -> float:
        return sum(self.tokens) / self.processor_seconds if self.processor_seconds else 0.0

    @property
    def fairness(self) -> float:
        """The tokens of the client that got the fewest, relative to the mean."""
        return min(self.tokens) / (sum(self.tokens) / len(self.tokens)) if any(self.tokens) else 0.0

    def first_token(self, quantile: float) -> float:
        return _quantile(self.first_tokens, quantile)

    def gap(self, quantile: float) -> float:
        return _quantile(self.gaps, quantile)


async def run_clients(url: str, *, clients: int, seconds: float, max_tokens: int, seed: int) -> Load:
    """`clients` send requests of random prompts (16 to 128 tokens) for `seconds`; answers that are then unfinished are
    counted up to there."""
    load = Load(seconds, tokens=[0] * clients)
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_client(url, load, index, end, max_tokens, seed) for index in range(clients)))
    return load


async def _client(url: str, load: Load, index: int, end: float, max_tokens: int, seed: int) -> None:
    draw = random.Random(f"{seed} {len(load.tokens)} {index}")  # no prompt occurs twice
    while time.perf_counter() < end:
        prompt = [1, *draw.choices(ORDINARY_IDS, k=draw.randint(16, 128))]
        body = {"prompt": prompt, "max_tokens": max_tokens, "seed": draw.randrange(2**31)}
        before = time.perf_counter()
        is_first = True
        try:
            async with asyncio.timeout(end - before), aclosing(stream_completion(url, body)) as chunks:
                async for _ in chunks:
                    now = time.perf_counter()
                    (load.first_tokens if is_first else load.gaps).append(now - before)
                    load.tokens[index] += 1
                    before = now
                    is_first = False
        except TimeoutError:
            return


async def stream_completion(url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed completion that have a choice."""
    parts = urlsplit(url)
    content = json.dumps({"stream": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95} | body).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{url} answered {status.decode().strip()}: {(await reader.read()).decode()[-500:]}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if chunk.get("choices"):
                    yield chunk
                if "error" in chunk:
                    raise RuntimeError(f"{url} answered {line.decode().strip()}")
    finally:
        writer.close()


def _quantile(values: list[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else float("nan")
