"""What one worker of a preparation does: read a shard's batches, encode them, append them to the shard's part."""

import fcntl
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from preparation.parts import INDEX_DTYPE, Part, PartState
from preparation.shards import Batch, Shard
from preparation.writer import Tokenizer


@dataclass(frozen=True)
class WorkerJob:
    """What is done to every shard; pickled to the workers."""

    work_dir: Path
    load_tokenizer: Callable[[], Tokenizer]
    batch_size: int
    min_tokens: int = 0


@dataclass(frozen=True)
class Progress:
    """What a batch added."""

    rows: int
    tokens: int
    size: int


def part_name(number: int) -> str:
    return f"shard_{number:06d}"


def prepare_shard(
    job: WorkerJob,
    tokenizer: Tokenizer,
    number: int,
    shard: Shard,
    *,
    stop: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    stopped: Callable[[], bool] = lambda: False,
) -> PartState:
    """Bring the part of shard `number` to its end, to row `stop`, or as far as it is when `stopped` says so.

    Goes on where the part stands, so it may be called again after any interruption.
    """
    part = Part(job.work_dir, part_name(number))
    if part.state.done:
        return part.state
    for batch in shard.batches(start=part.state.rows, stop=stop, batch_size=job.batch_size):
        streams, index, rejected = encode(batch, tokenizer, min_tokens=job.min_tokens)
        part.append(streams, index, rows=batch.rows, size=batch.size, rejected=rejected)
        report(Progress(batch.rows, int(index["tokens"].sum()), batch.size))
        if stopped():
            return part.state
    part.finish()
    return part.state


def encode(
    batch: Batch, tokenizer: Tokenizer, *, min_tokens: int
) -> tuple[list[np.ndarray], np.ndarray, Mapping[str, int]]:
    """A batch's kept documents as ids with BOS and EOS, their records, and how many went for which reason."""
    bos = np.array([tokenizer.bos_id], dtype=np.uint16)
    eos = np.array([tokenizer.eos_id], dtype=np.uint16)
    streams: list[np.ndarray] = []
    records = []
    rejected = Counter(batch.rejected)
    for text, ids in zip(batch.texts, tokenizer.encode_batch(batch.texts), strict=True):
        if len(ids) < min_tokens:
            rejected["too_short"] += 1
            continue
        streams += (bos, ids, eos)
        records.append((len(ids) + 2, len(text.encode()), len(text), (0, 0)))
    return streams, np.array(records, dtype=INDEX_DTYPE), rejected


# A worker process loads its tokenizer once and keeps it between shards.
_process: dict[str, Any] = {}


def start_worker(job: WorkerJob, messages: Any, stop_event: Any) -> None:
    """Set up a worker process: it leaves signals to the main process and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    lock = os.open(job.work_dir, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)  # the next run waits until every worker of this one is gone
    _process.update(job=job, tokenizer=job.load_tokenizer(), messages=messages, stop_event=stop_event, lock=lock)


def run_in_worker(number: int, shard: Shard) -> PartState:
    if _process["stop_event"].is_set():
        return PartState()
    return prepare_shard(
        _process["job"],
        _process["tokenizer"],
        number,
        shard,
        report=_process["messages"].put,
        stopped=_process["stop_event"].is_set,
    )


def _exit_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
