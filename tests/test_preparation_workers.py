"""Preparation with several processes gives the same bytes, and every failure ends the run."""

import multiprocessing
import os
import signal
import sys

import pytest

from pipeline.preparation.run import prepare
from tests.preparation_jobs import dataset_config, sums_of
from utils.errors import PipelineError, Terminated


def test_workers_batches_and_shards_change_nothing(make_job, tokenizer_class, monkeypatch):
    prepare(make_job("one"), tokenizer_class())
    prepare(make_job("two", workers=2, dataset=dataset_config(batch_size=50)), tokenizer_class())
    monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", 100_000)
    one, two, three = make_job("one"), make_job("two"), make_job("three")
    prepare(three, tokenizer_class())
    assert sums_of(one.directory) == sums_of(two.directory) == sums_of(three.directory)


def test_an_error_in_a_worker_process_is_reported_unchanged(make_job, tokenizer_class):
    job = make_job(workers=2)
    job.shards[0].path.write_bytes(b"fine\n\xff\xfe\n" * 200)
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt is not valid UTF-8"):
        prepare(job, tokenizer_class())


@pytest.fixture
def in_workers(tokenizer_class):
    """Create a tokenizer that calls `act(first text)` whenever a worker process encodes."""
    main = os.getpid()

    def make_tokenizer(act):
        class Acting(tokenizer_class):
            def encode_batch(self, texts):
                if os.getpid() != main:
                    act(texts[0])
                return super().encode_batch(texts)

        return Acting()

    return make_tokenizer


@pytest.mark.skipif(sys.platform != "linux", reason="workers share the test's tokenizer where they are forked")
def test_a_killed_worker_ends_a_run_that_hangs(make_job, tokenizer_class, in_workers):
    def act(text):
        if text.startswith("Article 0."):
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    with pytest.raises(PipelineError, match=r"a worker process was killed.*run the same command again"):
        prepare(make_job("killed", workers=2), in_workers(act))
    assert multiprocessing.active_children() == []
    prepare(make_job("killed", workers=2), tokenizer_class())
    prepare(make_job("whole"), tokenizer_class())
    assert sums_of(make_job("killed").directory) == sums_of(make_job("whole").directory)


@pytest.mark.skipif(sys.platform != "linux", reason="workers share the test's tokenizer where they are forked")
def test_one_sigterm_ends_a_run_whose_workers_hang(make_job, in_workers):
    def act(text):
        if text.startswith("Article 0."):
            os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()

    def handler(number, frame):
        raise Terminated

    earlier = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Terminated):
            prepare(make_job(workers=2), in_workers(act))
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert multiprocessing.active_children() == []
