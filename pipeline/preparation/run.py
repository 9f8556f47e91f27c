"""Documents → token dataset: the common run of `dataset_prep.py` and `fineweb_prep.py`.

Workers process each shard into a part (`pipeline.preparation.worker`), and the parts are combined into the dataset
(`dataset_writer`). Until metadata.json is written, all state is in the folder `unfinished/` of the dataset, from which
an interrupted run continues. The result does not depend on workers, batches or interruptions.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.token_dataset import METADATA_NAME, is_token_file, write_metadata
from pipeline.jobs.local_processes import LocalProcesses, ThisProcess
from pipeline.jobs.runner import Executor, Job, claimed, resumable, run_pending
from pipeline.preparation.dataset_writer import FinishedPart, Layout, Writer, metadata_of
from pipeline.preparation.downloads import ServerError
from pipeline.preparation.exact_duplicates import keep_masks
from pipeline.preparation.finished_dataset import finished_metadata
from pipeline.preparation.free_disk import expected_size, refuse_small_disk
from pipeline.preparation.inputs import TIMES_NAME, described, write_times
from pipeline.preparation.job import WORK_DIR, Preparation
from pipeline.preparation.near_duplicate_jobs import Search
from pipeline.preparation.near_duplicate_pass import (
    EXAMPLES_NAME,
    Examples,
    WithoutNearDuplicates,
    without_near_duplicates,
)
from pipeline.preparation.progress import BatchDone, ProgressLine
from pipeline.preparation.recipe_differences import refuse_differences, without_windows
from pipeline.preparation.shard_output import Part, read_sealed
from pipeline.preparation.worker import ProcessTokenizer, WorkerJob, part_name, prepare_in_process, prepare_shard
from pipeline.tokenization.interface import Tokenizer
from utils.checksums import sealed
from utils.errors import PipelineError
from utils.files import remove_stale_temporaries, whole_file, write_json

REMOVED_NAME = "contaminated.jsonl"


def prepare(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Prepare the dataset, or continue an interrupted run, and return the metadata. For a finished dataset, only the
    windows are updated.

    Raises:
        PipelineError: the folder has a dataset with different settings, input or tokenizer; another run writes to it;
            the disk is too small or full; the input is damaged.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    with claimed(job.directory, partial(_clean_up, job)), resumable(job.directory), _counting_saved_documents(job):
        identity = _identity(job, tokenizer)
        finished = finished_metadata(job.directory, identity, job.inputs, job.dataset)
        if finished is None:
            _begin(job, identity)
            job.check_input()
            refuse_small_disk(job.directory, expected_size(job, tokenizer))
            _run_shards(job, tokenizer)
            finished = _put_together(job, tokenizer)
        shutil.rmtree(job.work_dir, ignore_errors=True)
    return finished


@contextlib.contextmanager
def _counting_saved_documents(job: Preparation) -> Iterator[None]:
    """Add the amount of saved work to a server error."""
    try:
        yield
    except ServerError as error:
        rows = sum(part.state.rows for part in _parts(job))
        saved = f"{rows:,} documents are saved; run the same command again to continue" if rows else "nothing was saved"
        raise PipelineError(f"{error}; {saved}") from None


def _parts(job: Preparation) -> list[Part]:
    return [Part(job.work_dir, part_name(number)) for number in range(len(job.shards))]


def _clean_up(job: Preparation) -> None:
    if job.restart:
        _clear(job.directory)
    remove_stale_temporaries(job.directory, METADATA_NAME, "tokens_*.npy", REMOVED_NAME, EXAMPLES_NAME, TIMES_NAME)
    remove_stale_temporaries(job.work_dir, "identity.json", "shard_*.json", "file_*.json", "near_*")


def _clear(directory: Path) -> None:
    """Remove a dataset, metadata.json first, so that a partial dataset never looks complete."""
    (directory / METADATA_NAME).unlink(missing_ok=True)
    shutil.rmtree(directory / WORK_DIR, ignore_errors=True)
    tokens = [path for path in directory.glob("tokens_*.npy") if is_token_file(path)]
    for path in [*tokens, *(directory / name for name in (REMOVED_NAME, EXAMPLES_NAME, TIMES_NAME))]:
        path.unlink(missing_ok=True)


def _identity(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that affects the content of the dataset, normalized through JSON."""
    content = {
        "config": without_windows(job.recipe),
        "tokenizer": {"fingerprint": tokenizer.fingerprint},
        "inputs": {file.name: file.size for file in job.inputs},
    }
    identity: dict[str, Any] = json.loads(json.dumps(content))
    return identity


def _begin(job: Preparation, identity: Mapping[str, Any]) -> None:
    """Record what this run prepares, or check that it matches an interrupted run."""
    job.work_dir.mkdir(exist_ok=True)
    path = job.work_dir / "identity.json"
    now = {**identity, "modified": {file.name: file.modified for file in job.inputs}}
    if path.exists():
        refuse_differences(read_sealed(path), now, f"{job.directory} was started")
    else:
        write_json(path, sealed(now))


def _run_shards(job: Preparation, tokenizer: Tokenizer) -> None:
    worker_job = WorkerJob(
        job.work_dir,
        ProcessTokenizer(job.load_tokenizer, tokenizer),
        job.dataset.batch_size,
        min_tokens=job.min_tokens,
        deduplicate=job.dataset.deduplicate,
        evaluation=job.evaluation,
        prefetch=job.prefetch,
    )
    states = [part.state for part in _parts(job)]
    total_size = sum(shard.size for shard in job.shards) if job.limit is None else None
    with ProgressLine(states, total_size=total_size) as progress:
        if job.limit is not None:
            _run_to_limit(job, worker_job, progress.add)
            return
        work = prepare_shard if job.workers == 1 else prepare_in_process
        plan = [
            Job(part_name(number), partial(work, worker_job, number, shard), done=state.done)
            for number, (shard, state) in enumerate(zip(job.shards, states, strict=True))
        ]
        run_pending(plan, _executor(job), on_progress=lambda _, batch: progress.add(batch))


def _executor(job: Preparation) -> Executor:
    if job.workers == 1:
        return ThisProcess()
    # Fork if that is safe: the tokenizer is shared, and processes start in an instant instead of most of a second.
    return LocalProcesses(job.workers, job.directory, start_method="fork" if sys.platform == "linux" else "spawn")


def _run_to_limit(job: Preparation, worker_job: WorkerJob, report: Callable[[BatchDone], None]) -> None:
    """Prepare shards one after the other until they have `job.limit` rows, because each depends on the count before
    it."""
    left = job.limit
    for number, shard in enumerate(job.shards):
        if not left:
            break
        left -= prepare_shard(worker_job, number, shard, report, stop=left).rows


def _put_together(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    parts = _parts(job)
    for part in parts:
        part.verify()
    inputs = _described_inputs(job, parts)
    keep = kept_documents(parts) if job.dataset.deduplicate else [np.ones(p.state.documents, dtype=bool) for p in parts]
    near = _without_near_duplicates(job, tokenizer, parts, keep)
    finished = [
        FinishedPart(part, shard.source, mask, near_duplicates=removed)
        for part, shard, mask, removed in zip(parts, job.shards, near.keep, near.removed, strict=True)
    ]
    layout = Layout.of(job.dataset)
    writer = Writer(finished, job.directory, job.work_dir, layout, bos_id=tokenizer.bos_id)
    files = writer.write(workers=job.workers)
    if job.evaluation is not None:
        with whole_file(job.directory / REMOVED_NAME) as stream:
            for part in parts:
                stream.write(part.removed())
    write_times(job.directory, job.inputs)
    metadata = metadata_of(finished, files, tokenizer, layout=layout, config=job.recipe, inputs=inputs)
    if near.facts is not None:
        metadata["near_duplicates"] = near.facts
    write_metadata(job.directory, metadata)
    return metadata


def _without_near_duplicates(
    job: Preparation, tokenizer: Tokenizer, parts: Sequence[Part], keep: Sequence[np.ndarray]
) -> WithoutNearDuplicates:
    """The masks `keep` without near duplicates, if they are to be removed."""
    threshold = job.dataset.near_duplicates
    if threshold is None:
        return WithoutNearDuplicates(keep, [0] * len(parts))
    examples = Examples(job.directory / EXAMPLES_NAME, tokenizer, [shard.source for shard in job.shards])
    search = Search(job.work_dir, len(parts), threshold)
    return without_near_duplicates(parts, keep, search, _executor(job), examples=examples)


def _described_inputs(job: Preparation, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The metadata entries of the input; with a limit, not all of it was read.

    Raises:
        PipelineError: a file has changed in the meantime.
    """
    read = [shard for shard, part in zip(job.shards, parts, strict=True) if part.state.rows]
    inputs = described(job.inputs, read={shard.source for shard in read}, workers=job.workers)
    for shard in read:  # after hashing, so that the hash is of the content that was read
        if shard.path and str(shard.path.stat().st_mtime_ns) != shard.modified:
            raise PipelineError(f"{shard.path} changed while it was being read; start over with --restart")
    return inputs


def kept_documents(parts: Sequence[Part], *, at_once: int = 2_000_000) -> list[np.ndarray]:
    """For each part, bool (documents,): False for duplicates of earlier documents.

    Hashes are compared in disjoint groups, so that memory stays bounded for any number of documents.
    """
    groups = sum(part.state.documents for part in parts) // at_once + 1
    keep = [np.ones(part.state.documents, dtype=bool) for part in parts]
    for group in range(groups):
        places, hashes = [], []
        for part in parts:
            pairs = part.index()["hash"]
            places.append(np.flatnonzero(pairs[:, 0] % groups == group))
            hashes.append(pairs[places[-1]])
        for mask, place, group_mask in zip(keep, places, keep_masks(hashes), strict=True):
            mask[place] = group_mask
    return keep
