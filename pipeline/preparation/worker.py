"""Process one shard of a preparation: read its batches, encode them, append them to the shard's part."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.preparation.exact_duplicates import hash_documents
from pipeline.preparation.input_shards import Batch, Shard, batches
from pipeline.preparation.progress import BatchDone
from pipeline.preparation.read_ahead import prefetched
from pipeline.preparation.shard_output import INDEX_DTYPE, Part, PartState
from pipeline.tokenization.interface import Tokenizer

if TYPE_CHECKING:
    from pipeline.preparation.decontamination import EvaluationIndex

# The starts of the first documents in every shard are also encoded with the reference engine.
PROBE_DOCUMENTS, PROBE_CHARACTERS = 8, 8000
_SHOWN_CHARACTERS = 200


class ProcessTokenizer:
    """The tokenizer of this process. A forked process uses its parent's; a spawned one loads its own."""

    def __init__(self, load: Callable[[], Tokenizer], loaded: Tokenizer | None = None) -> None:
        self._load = load
        self._loaded = loaded

    def get(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def __reduce__(self) -> tuple[type["ProcessTokenizer"], tuple[Callable[[], Tokenizer]]]:
        return ProcessTokenizer, (self._load,)


@dataclass(frozen=True)
class WorkerJob:
    """How to process every shard; pickled to the workers."""

    work_dir: Path
    tokenizer: ProcessTokenizer
    batch_size: int
    min_tokens: int = 0
    deduplicate: bool = True
    evaluation: "EvaluationIndex | None" = None
    prefetch: bool = False


def part_name(number: int) -> str:
    return f"shard_{number:06d}"


def prepare_shard(
    job: WorkerJob,
    number: int,
    shard: Shard,
    report: Callable[[BatchDone], None],
    *,
    stop: int | None = None,
) -> PartState:
    """Process shard `number` to the end, or to row `stop`.

    Continues from the state of the part, so it can be called again after any interruption.
    """
    part = Part(job.work_dir, part_name(number))
    if part.state.done:
        return part.state
    tokenizer = job.tokenizer.get()
    found = batches(shard.rows(part.state.rows, stop), batch_size=job.batch_size)
    for batch in prefetched(found) if job.prefetch else found:
        if part.state.rows == 0:
            tokenizer.verify_batch([text[:PROBE_CHARACTERS] for text in batch.texts[:PROBE_DOCUMENTS]])
        streams, index, rejected, removed = encode(batch, tokenizer, job, source=shard.source)
        part.append(streams, index, rows=batch.rows, size=batch.size, rejected=rejected, removed=removed)
        report(BatchDone(batch.rows, int(index["tokens"].sum()), batch.size))
    part.finish()
    return part.state


def encode(
    batch: Batch, tokenizer: Tokenizer, job: WorkerJob, *, source: str
) -> tuple[list[np.ndarray], np.ndarray, Counter[str], list[dict[str, str]]]:
    """The kept documents of a batch as ids with BOS and EOS, their records, counts of removed ones by reason, and the
    list of removed documents."""
    rejected = Counter(batch.rejected)
    texts, removed = _without_contaminated(batch.texts, job.evaluation, source)
    rejected.update(record["reason"] for record in removed)
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
    """The texts that are not contaminated, and a record of each one that is."""
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


def prepare_in_process(job: WorkerJob, number: int, shard: Shard, report: Callable[[BatchDone], None]) -> PartState:
    """`prepare_shard` in a worker process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per process, and no fork warning
    return prepare_shard(job, number, shard, report)
