"""An interrupted preparation continues to the same bytes, or explains why it cannot."""

import errno
import os
import shutil

import pytest

from pipeline.preparation import run as preparation
from pipeline.preparation.input_shards import line_shards
from pipeline.preparation.run import prepare
from pipeline.preparation.worker import prepare_shard
from tests.preparation_jobs import sums_of, with_window
from utils.errors import PipelineError


class Interrupted(BaseException):
    """Simulates a kill within one process: nothing catches it."""


def test_a_run_stopped_at_any_write_ends_the_same(make_job, tokenizer_class, monkeypatch):
    """Die at the 1st, 24th, 47th, … fsync of the run, then continue; the result is always the same."""
    whole = make_job("whole")
    prepare(whole, tokenizer_class())
    real_fsync = os.fsync
    left = [0]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        real_fsync(handle)

    monkeypatch.setattr("os.fsync", fsync)
    stops = 0
    for stop in range(1, 1000, 23):
        left[0] = stop
        try:
            prepare(make_job(f"stopped_{stop}"), tokenizer_class())
        except Interrupted:
            stops += 1
            left[0] = 3 * stop  # and once more, later
            try:
                prepare(make_job(f"stopped_{stop}"), tokenizer_class())
            except Interrupted:
                prepare(make_job(f"stopped_{stop}"), tokenizer_class())
        else:
            break
        assert sums_of(make_job(f"stopped_{stop}").directory) == sums_of(whole.directory)
    assert stops > 5


def test_tokens_beyond_the_saved_state_are_cut_off(make_job, tokenizer_class, monkeypatch):
    """A kill between writing tokens and writing the state leaves a tail, possibly half a batch."""
    whole, torn = make_job("whole"), make_job("torn")
    prepare(whole, tokenizer_class())
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "prepare_shard", _three_batches_only)
        with pytest.raises(KeyboardInterrupt):
            prepare(torn, tokenizer_class())
    for kind in ("tokens", "index"):
        with (torn.work_dir / f"shard_000000.{kind}").open("ab") as stream:
            stream.write(b"half a batch of a killed run")
    stale = torn.directory / ".tokens_0.npy.999999999.tmp"
    stale.write_bytes(b"half a file")
    foreign = [torn.directory / ".mine.tmp", torn.directory / "notes" / ".notes.txt.1.tmp"]
    foreign[1].parent.mkdir()
    for path in foreign:
        path.write_text("somebody's own")
    prepare(torn, tokenizer_class())
    assert not stale.exists()
    assert all(path.exists() for path in foreign)
    foreign[0].unlink()
    shutil.rmtree(foreign[1].parent)
    assert sums_of(torn.directory) == sums_of(whole.directory)


def _three_batches_only(worker_job, number, shard, report):
    calls = iter(range(3))

    def stop_at_third(batch):
        if next(calls) == 2:
            raise KeyboardInterrupt

    prepare_shard(worker_job, number, shard, stop_at_third)


def test_an_unfinished_dataset_may_get_another_window(make_job, tokenizer_class, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(make_job(), tokenizer_class())
    prepare(with_window(make_job(), 32), tokenizer_class())
    prepare(with_window(make_job("fresh"), 32), tokenizer_class())
    assert sums_of(make_job().directory) == sums_of(make_job("fresh").directory)


def test_an_input_that_changes_while_it_is_read_is_refused(make_job, tokenizer_class, monkeypatch):
    job = make_job()
    run_shards = preparation._run_shards

    def edited(*arguments):
        run_shards(*arguments)
        os.utime(job.shards[0].path, ns=(1, 1))

    monkeypatch.setattr(preparation, "_run_shards", edited)
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt changed while it was being read; .*--restart"):
        prepare(job, tokenizer_class())


def test_resuming_with_other_inputs_names_the_difference(make_job, tokenizer_class, monkeypatch):
    job = make_job()
    monkeypatch.setattr(preparation, "_run_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(job, tokenizer_class())
    other = tokenizer_class()
    other.fingerprint = "e" * 64
    with pytest.raises(PipelineError, match=r"tokenizer fingerprint \"fff.*\(now \"eee"):
        prepare(job, other)
    path = job.shards[0].path
    path.write_text(path.read_text() + "one more\n")
    changed = make_job(shards=line_shards([path]))
    with pytest.raises(PipelineError, match=r"inputs cleaned_0\.txt"):
        prepare(changed, tokenizer_class())


def test_a_second_run_on_the_same_folder_is_refused(make_job, tokenizer_class, monkeypatch):
    monkeypatch.setattr("pipeline.jobs.runner.PATIENCE_SECONDS", 0.0)
    job = make_job()
    monkeypatch.setattr(preparation, "_begin", lambda *_: prepare(job, tokenizer_class()))
    with pytest.raises(PipelineError, match="in use by another run"):
        prepare(job, tokenizer_class())


def test_a_run_continues_after_a_full_disk(make_job, tokenizer_class, monkeypatch):
    whole, full = make_job("whole"), make_job("full")
    prepare(whole, tokenizer_class())
    real_fsync = os.fsync
    left = [12]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        with pytest.raises(
            PipelineError, match=r"the disk containing .* is full; finished work is kept; free some space"
        ):
            prepare(full, tokenizer_class())
    prepare(full, tokenizer_class())
    assert sums_of(full.directory) == sums_of(whole.directory)
