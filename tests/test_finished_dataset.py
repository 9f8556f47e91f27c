"""A finished dataset is recognized by its content, and kept, given new windows, or refused."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation.run import prepare
from tests.preparation_jobs import sums_of, with_window
from utils.errors import PipelineError


def test_a_finished_dataset_is_kept_and_another_refused(make_job, tokenizer_class):
    job = make_job()
    prepare(job, tokenizer_class())
    before = {path: path.stat().st_mtime_ns for path in job.directory.iterdir()}
    prepare(job, tokenizer_class())
    assert before == {path: path.stat().st_mtime_ns for path in job.directory.iterdir()}
    other = replace(job, recipe={"window": 16, "overlap": 0.5, "max_files": 3})
    with pytest.raises(PipelineError, match=r"config max_files absent \(now 3\).*--restart"):
        prepare(other, tokenizer_class())
    prepare(replace(other, restart=True), tokenizer_class())


def test_another_window_rewrites_only_the_metadata(make_job, tokenizer_class, capsys):
    job = make_job()
    prepare(job, tokenizer_class())
    before = {path: path.stat().st_mtime_ns for path in job.directory.glob("tokens_*.npy")}
    prepare(with_window(job, 32), tokenizer_class())
    assert "windows of 32, one every 24 tokens, instead of 16 and 8" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in job.directory.glob("tokens_*.npy")}
    prepare(with_window(make_job("fresh"), 32), tokenizer_class())
    assert sums_of(job.directory) == sums_of(make_job("fresh").directory)
    assert TokenDataset.open(job.directory).window == 32
    with pytest.raises(PipelineError, match=r"fewer than one window of 5000"):
        prepare(with_window(job, 5000), tokenizer_class())


def test_an_edited_input_of_the_same_size_is_noticed(make_job, tokenizer_class):
    prepare(make_job(), tokenizer_class())
    path = make_job().shards[-1].path
    path.write_text(path.read_text(encoding="utf-8").replace("short", "SHORT"), encoding="utf-8", newline="\n")
    with pytest.raises(PipelineError, match=r"1\.txt has changed since .*dataset was prepared; .*--restart"):
        prepare(make_job(), tokenizer_class())
    make_job().shards[0].path.write_bytes(make_job().shards[0].path.read_bytes().replace(b"short", b"SHORT"))
    with pytest.raises(PipelineError, match=r"0\.txt and 1 more has changed"):
        prepare(make_job(), tokenizer_class())
    prepare(make_job(restart=True), tokenizer_class())


def test_copies_with_other_times_are_the_same_input(make_job, tokenizer_class, capsys, monkeypatch):
    prepare(make_job(), tokenizer_class())
    os.utime(make_job().shards[0].path, ns=(1, 1))
    (make_job().directory / "input_times.json").write_text("{")
    prepare(make_job(), tokenizer_class())
    assert "already complete, prepared from the same input" in capsys.readouterr().out
    monkeypatch.setattr("pipeline.preparation.inputs.InputFile.content", lambda file: pytest.fail("read once more"))
    prepare(make_job(), tokenizer_class())


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 200)], ids=["missing", "cut"])
def test_a_finished_dataset_with_missing_tokens_is_refused(make_job, tokenizer_class, harm):
    prepare(make_job(), tokenizer_class())
    harm(make_job().directory / "tokens_1.npy")
    with pytest.raises(PipelineError, match=r"tokens_1\.npy is (missing|damaged or cut short).*--restart"):
        prepare(make_job(), tokenizer_class())


def test_another_tools_dataset_is_not_continued(make_job, tokenizer_class):
    job = make_job()
    job.directory.mkdir()
    np.save(job.directory / "tokens_0.npy", np.zeros((4, 16), dtype=np.uint16))
    (job.directory / "metadata.json").write_text("[]")
    with pytest.raises(PipelineError, match=r"dataset contains a token dataset from another tool; .*--restart"):
        prepare(job, tokenizer_class())
