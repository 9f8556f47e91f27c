"""The resumable runner: runs pending jobs, reports failures, and locks the folder."""

import errno
from functools import partial

import pytest

from pipeline.jobs.local_processes import LocalProcesses, ThisProcess
from pipeline.jobs.runner import Job, claimed, resumable, run_pending
from utils.errors import PipelineError
from utils.locks import part_of_run


def work(name, report):
    report(len(name))
    if name == "bad":
        raise PipelineError("bad.txt is damaged")
    return name.upper()


def full_disk(report):
    raise OSError(errno.ENOSPC, "No space left on device")


def plan(*names, done=()):
    return [Job(name, partial(work, name), done=name in done) for name in names]


def nothing():
    pass


def test_only_pending_jobs_run():
    results, progress = {}, {}
    run_pending(
        plan("a", "bb", "ccc", done=("bb",)),
        ThisProcess(),
        on_progress=progress.__setitem__,
        on_result=results.__setitem__,
    )
    assert results == {"a": "A", "ccc": "CCC"}
    assert progress == {"a": 1, "ccc": 3}


def test_the_first_failure_stops_the_run():
    results = {}
    with pytest.raises(PipelineError, match=r"^bad\.txt is damaged$"):
        run_pending(plan("a", "bad", "ccc"), ThisProcess(), on_result=results.__setitem__)
    assert results == {"a": "A"}


def test_keep_going_runs_the_rest_first():
    results = {}
    with pytest.raises(PipelineError, match=r"bad\.txt is damaged; finished work is kept; run the same command again"):
        run_pending(plan("a", "bad", "ccc"), ThisProcess(), on_result=results.__setitem__, keep_going=True)
    assert results == {"a": "A", "ccc": "CCC"}


def test_processes_give_the_results_of_this_process(tmp_path):
    results = {}
    with claimed(tmp_path, nothing):
        run_pending(plan("a", "bb"), LocalProcesses(2, tmp_path), on_result=results.__setitem__)
    assert results == {"a": "A", "bb": "BB"}


def test_a_full_disk_names_its_folder_in_any_process(tmp_path):
    for executor in (ThisProcess(), LocalProcesses(1, tmp_path)):
        with (
            pytest.raises(PipelineError, match=r"the disk containing .* is full; finished work is kept"),
            resumable(tmp_path),
        ):
            run_pending([Job("a", full_disk)], executor)


def test_a_next_run_waits_for_orphaned_workers(tmp_path):
    with (
        part_of_run(tmp_path),
        pytest.raises(PipelineError, match="is in use by another run"),
        claimed(tmp_path, nothing, patience=0),
    ):
        pass
    with claimed(tmp_path, nothing, patience=0), part_of_run(tmp_path):
        pass
