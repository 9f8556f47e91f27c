"""What one worker of a preparation does: read a shard's batches, encode them, append them to the shard's part."""

import fcntl
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preparation.dedup import hash_documents
from preparation.parts import INDEX_DTYPE, Part, PartState
from preparation.prefetch import prefetched
from preparation.shards import Batch, Shard, batches
from preparation.writer import Tokenizer

if TYPE_CHECKING:
    from preparation.decontamination import EvaluationIndex

# The beginnings of the first documents of every shard are encoded by the reference too.
PROBE_DOCUMENTS, PROBE_CHARACTERS = 8, 8000
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class WorkerJob:
    """What is done to every shard; pickled to the workers."""

    work_dir: Path
    load_tokenizer: Callable[[], Tokenizer]
    batch_size: int
    min_tokens: int = 0
    deduplicate: bool = True
    evaluation: "EvaluationIndex | None" = None
    prefetch: bool = False


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
    found = batches(shard.rows(part.state.rows, stop), batch_size=job.batch_size)
    for batch in prefetched(found) if job.prefetch else found:
        if part.state.rows == 0:
            tokenizer.verify_batch([text[:PROBE_CHARACTERS] for text in batch.texts[:PROBE_DOCUMENTS]])
        streams, index, rejected, removed = encode(batch, tokenizer, job, source=shard.source)
        part.append(streams, index, rows=batch.rows, size=batch.size, rejected=rejected, removed=removed)
        report(Progress(batch.rows, int(index["tokens"].sum()), batch.size))
        if stopped():
            return part.state
    part.finish()
    return part.state


def encode(
    batch: Batch, tokenizer: Tokenizer, job: WorkerJob, *, source: str
) -> tuple[list[np.ndarray], np.ndarray, Counter[str], list[dict[str, str]]]:
    """A batch's kept documents as ids with BOS and EOS, their records, how many went for which reason, and what of
    them is to be listed."""
    rejected = Counter(batch.rejected)
    texts, removed = _without_contaminated(batch.texts, job.evaluation, source)
    rejected.update(each["reason"] for each in removed)
    encoded = tokenizer.encode_batch(texts)
    kept = [place for place, ids in enumerate(encoded) if len(ids) >= job.min_tokens]
    rejected["too_short"] += len(texts) - len(kept)
    bos, eos = np.array([[tokenizer.bos_id], [tokenizer.eos_id]], dtype=np.uint16)
    index = np.zeros(len(kept), dtype=INDEX_DTYPE)
    index["tokens"] = [len(encoded[place]) + 2 for place in kept]
    index["bytes"] = [len(texts[place].encode()) for place in kept]
    index["characters"] = [len(texts[place]) for place in kept]
    if job.deduplicate:
        index["hash"] = hash_documents(texts[place] for place in kept)
    streams = [piece for place in kept for piece in (bos, encoded[place], eos)]
    return streams, index, rejected, removed


def _without_contaminated(
    texts: Sequence[str], evaluation: "EvaluationIndex | None", source: str
) -> tuple[Sequence[str], list[dict[str, str]]]:
    """The texts that share nothing with an evaluation set, and a record of each one that does."""
    if evaluation is None:
        return texts, []
    kept, removed = [], []
    for text in texts:
        match = evaluation.find(text)
        if match is None:
            kept.append(text)
        else:
            beginning = text[:_SHOWN_CHARACTERS]
            removed.append({"reason": match.reason, "source": source, "words": match.words, "document": beginning})
    return kept, removed


# What a worker process holds between shards.
_process: dict[str, Any] = {}


def share_tokenizer(tokenizer: Tokenizer) -> None:
    """Let worker processes that are forked from this one use `tokenizer` instead of loading it anew."""
    _process["tokenizer"] = tokenizer


def start_worker(job: WorkerJob, messages: Any, stop_event: Any) -> None:
    """Set up a worker process: it leaves signals to the main process and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker has one core; else the library warns of the fork
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    lock = os.open(job.work_dir, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)  # the next run waits until every worker of this one is gone
    if "tokenizer" not in _process:
        share_tokenizer(job.load_tokenizer())
    _process.update(job=job, messages=messages, stop_event=stop_event)


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
