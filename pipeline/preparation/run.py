"""Documents → token dataset: the run that `dataset_prep.py` and `fineweb_prep.py` share.

Workers bring every shard's part to its end (`pipeline.preparation.worker`); then the parts become the dataset
(`dataset_writer`). All state lies in the folder `unfinished/` of the dataset until metadata.json is written, and
an interrupted run goes on from it. What comes out does not depend on workers, batches or interruptions.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.token_dataset import METADATA_NAME, is_token_file
from pipeline.jobs.local_processes import ProcessLost, run_jobs
from pipeline.preparation.dataset_writer import FinishedPart, metadata_of, write_files, write_metadata
from pipeline.preparation.differences import refuse_differences, without_windows
from pipeline.preparation.exact_duplicates import keep_masks
from pipeline.preparation.finished import finished_metadata
from pipeline.preparation.free_disk import check_free_disk, disk_errors, expected_size
from pipeline.preparation.inputs import TIMES_NAME, described, write_times
from pipeline.preparation.job import WORK_DIR, Preparation
from pipeline.preparation.progress import BatchDone, ProgressLine
from pipeline.preparation.remote_file import ServerError
from pipeline.preparation.shard_output import Part, PartState, read_sealed
from pipeline.preparation.worker import (
    WorkerJob,
    part_name,
    prepare_in_process,
    prepare_shard,
    share_tokenizer,
)
from pipeline.tokenization.interface import Tokenizer
from utils.checksums import sealed
from utils.errors import PipelineError
from utils.files import remove_stale_temporaries, whole_file, write_json

REMOVED_NAME = "contaminated.jsonl"
LOCK_SECONDS = 10.0  # a killed run's workers are gone long before


def available_cores() -> int:
    """Cores that this process may run on, which in a container may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Make the dataset, or continue with it; returns its metadata. Of a finished one only the windows are changed.

    Raises:
        PipelineError: the folder holds a dataset begun with other settings, input or tokenizer; another run writes to
            it; the disk is too small or full; the input is broken.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    with _only_run(job), _told_how_to_go_on(job):
        if job.restart:
            _clear(job.directory)
        identity = _identity(job, tokenizer)
        finished = finished_metadata(job.directory, identity, job.inputs, job.dataset)
        if finished is None:
            _begin(job, identity)
            job.check_input()
            check_free_disk(job.directory, expected_size(job, tokenizer))
            _run_shards(job, tokenizer)
            finished = _put_together(job, tokenizer)
        shutil.rmtree(job.work_dir, ignore_errors=True)
    return finished


@contextlib.contextmanager
def _told_how_to_go_on(job: Preparation) -> Iterator[None]:
    try:
        with disk_errors(job.directory):
            yield
    except KeyboardInterrupt:
        print("\nstopped; what is done is kept, and the same command goes on from there", flush=True)
        raise
    except ServerError as error:
        rows = sum(Part(job.work_dir, part_name(number)).state.rows for number in range(len(job.shards)))
        saved = f"the same command continues after the {rows:,} documents saved so far" if rows else "nothing is saved"
        raise PipelineError(f"{error}; {saved}") from None


@contextlib.contextmanager
def _only_run(job: Preparation) -> Iterator[None]:
    """Hold the dataset's folder: no second run, and no worker that a killed run left behind for a moment."""
    handle = os.open(job.directory, os.O_RDONLY)
    try:
        _lock(handle, f"{job.directory} is being written by another run; wait for it, or end it")
        if job.work_dir.exists():
            workers = os.open(job.work_dir, os.O_RDONLY)
            _lock(workers, f"workers of an earlier run still write to {job.work_dir}; end them")
            os.close(workers)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, refusal: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PipelineError(refusal) from None
            time.sleep(0.05)


def _clear(directory: Path) -> None:
    """Remove a dataset; metadata.json first, so that it is complete at no moment of it."""
    (directory / METADATA_NAME).unlink(missing_ok=True)
    shutil.rmtree(directory / WORK_DIR, ignore_errors=True)
    tokens = [path for path in directory.glob("tokens_*.npy") if is_token_file(path)]
    for path in [*tokens, directory / REMOVED_NAME, directory / TIMES_NAME]:
        path.unlink(missing_ok=True)


def _identity(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that decides the bytes of the dataset, as JSON gives it back."""
    content = {
        "config": without_windows(job.recipe),
        "tokenizer": {"fingerprint": tokenizer.fingerprint},
        "inputs": {file.name: file.size for file in job.inputs},
    }
    return json.loads(json.dumps(content))


def _begin(job: Preparation, identity: Mapping[str, Any]) -> None:
    """Write down what this run makes, or check that an interrupted one made the same."""
    remove_stale_temporaries(job.directory, METADATA_NAME, "tokens_*.npy", REMOVED_NAME, TIMES_NAME)
    remove_stale_temporaries(job.work_dir, "identity.json", "shard_*.json", "file_*.json")
    job.work_dir.mkdir(exist_ok=True)
    path = job.work_dir / "identity.json"
    now = {**identity, "modified": {file.name: file.modified for file in job.inputs}}
    if path.exists():
        refuse_differences(read_sealed(path), now, f"{job.directory} was begun")
    else:
        write_json(path, sealed(now))


def _run_shards(job: Preparation, tokenizer: Tokenizer) -> None:
    states = [Part(job.work_dir, part_name(number)).state for number in range(len(job.shards))]
    total_size = sum(shard.size for shard in job.shards) if job.limit is None else None
    with ProgressLine(states, total_size=total_size) as progress:
        if job.workers == 1 or job.limit is not None:
            _run_here(job, tokenizer, progress.add)
        else:
            _run_in_processes(job, tokenizer, states, progress.add)


def _worker_job(job: Preparation) -> WorkerJob:
    return WorkerJob(
        job.work_dir,
        job.load_tokenizer,
        job.dataset.batch_size,
        min_tokens=job.min_tokens,
        deduplicate=job.dataset.deduplicate,
        evaluation=job.evaluation,
        prefetch=job.prefetch,
    )


def _run_here(job: Preparation, tokenizer: Tokenizer, report: Callable[[BatchDone], None]) -> None:
    left = job.limit
    for number, shard in enumerate(job.shards):
        if left == 0:
            break
        state = prepare_shard(_worker_job(job), tokenizer, number, shard, stop=left, report=report)
        left = None if left is None else left - state.rows


def _run_in_processes(
    job: Preparation, tokenizer: Tokenizer, states: Sequence[PartState], report: Callable[[BatchDone], None]
) -> None:
    # Forked where that is safe: the tokenizer is shared, and a process works at once instead of after most of a second.
    start_method = "fork" if sys.platform == "linux" else "spawn"
    share_tokenizer(tokenizer)
    todo = [number for number, state in enumerate(states) if not state.done]
    jobs = {
        part_name(number): partial(prepare_in_process, _worker_job(job), number, job.shards[number]) for number in todo
    }
    outcomes = run_jobs(
        jobs, workers=job.workers, on_progress=lambda _, progress: report(progress), start_method=start_method
    )
    with contextlib.closing(outcomes):
        for _, outcome in outcomes:
            if isinstance(outcome, ProcessLost):
                raise PipelineError(
                    "a worker process was killed, perhaps for want of memory; run the same command again to continue, "
                    "with fewer --workers or a smaller --batch"
                )
            if isinstance(outcome, PipelineError):
                raise outcome


def _put_together(job: Preparation, tokenizer: Tokenizer) -> dict[str, Any]:
    parts = [Part(job.work_dir, part_name(number)) for number in range(len(job.shards))]
    for part in parts:
        part.verify()
    inputs = _described_inputs(job, parts)
    keep = kept_documents(parts) if job.dataset.deduplicate else [np.ones(p.state.documents, dtype=bool) for p in parts]
    finished = [
        FinishedPart(part, shard.source, mask) for part, shard, mask in zip(parts, job.shards, keep, strict=True)
    ]
    windows = {"window": job.dataset.window, "stride": job.dataset.stride}
    files = write_files(
        finished,
        job.directory,
        job.work_dir,
        **windows,
        bos_id=tokenizer.bos_id,
        file_tokens=job.dataset.file_tokens,
        max_files=job.dataset.max_files,
        workers=job.workers,
    )
    if job.evaluation is not None:
        with whole_file(job.directory / REMOVED_NAME) as stream:
            for part in parts:
                stream.write(part.removed())
    write_times(job.directory, job.inputs)
    metadata = metadata_of(finished, files, tokenizer, **windows, config=job.recipe, inputs=inputs)
    write_metadata(job.directory, metadata)
    return metadata


def _described_inputs(job: Preparation, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """What metadata.json says of the input; with a limit not all of it was read.

    Raises:
        PipelineError: a file has changed meanwhile.
    """
    read = [shard for shard, part in zip(job.shards, parts, strict=True) if part.state.rows]
    inputs = described(job.inputs, read={shard.source for shard in read}, workers=job.workers)
    for shard in read:  # after its content was hashed, so that the hash is of what was read
        if shard.path and str(shard.path.stat().st_mtime_ns) != shard.modified:
            raise PipelineError(f"{shard.path} has changed while it was read; start again with --restart")
    return inputs


def kept_documents(parts: Sequence[Part], *, at_once: int = 2_000_000) -> list[np.ndarray]:
    """For each part, bool (documents,): False where an earlier document is the same.

    Hashes are compared in groups that cannot share one, so that memory stays bounded at any number of documents.
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
