"""Near duplicates are removed from a dataset: exactly those, the same whatever the workers and interruptions."""

import json
import random
import string
from dataclasses import replace

import numpy as np
import pytest

from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation import near_duplicate_jobs
from pipeline.preparation.command_line import recipe
from pipeline.preparation.report import summary
from pipeline.preparation.run import prepare
from tests.preparation_jobs import dataset_config, stream_of, sums_of
from tests.test_near_duplicates import exact_similarity
from utils.errors import PipelineError


class Interrupted(BaseException):
    """Simulates a kill within one process: nothing catches it."""


def letters(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters, k=length))


def edited(text: str, edits: int) -> str:
    changed = list(text)
    for place in random.Random(edits).sample(range(len(text)), edits):
        changed[place] = "-"
    return "".join(changed)


@pytest.fixture
def articles():
    """Originals, then a copy of each with 1, 2, … replaced letters, and the same again."""
    originals = [letters(300, seed) for seed in range(100)]
    return [*originals, *(edited(text, number % 40 + 1) for number, text in enumerate(originals)), "tiny", "tin"]


@pytest.fixture
def near_job(make_job, monkeypatch):
    """Makes a job that removes near duplicates, over a few shards."""

    def job(name="near", threshold=0.8, **changes):
        monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", 30_000)
        recipe = {"window": 16, "overlap": 0.5, "near_duplicates": threshold}
        dataset = dataset_config(near_duplicates=threshold, batch_size=1000, file_tokens=10_000)
        return make_job(name, **{"recipe": recipe, "dataset": dataset, **changes})

    return job


@pytest.fixture(autouse=True)
def without_syncing(monkeypatch):
    """Waiting for the disk takes most of the time and changes nothing here."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_planted_near_duplicates_are_found(near_job, tokenizer_class, articles, threshold):
    encoded = tokenizer_class().encode_batch(articles)
    similar = [exact_similarity(encoded[number], encoded[number + 100]) >= threshold for number in range(100)]
    prepare(near_job(threshold=threshold), tokenizer_class())
    stream = np.concatenate(TokenDataset.open(near_job().directory).files).tolist()
    text = tokenizer_class().decode(stream)
    removed = [copy not in text for copy in articles[100:200]]
    assert all(original in text for original in articles[:100])
    assert not any(gone and not near for gone, near in zip(removed, similar, strict=True))  # precision 1
    assert sum(removed) >= 0.97 * sum(similar) > 10


def test_workers_and_groups_change_nothing(near_job, tokenizer_class, monkeypatch):
    prepare(near_job("one"), tokenizer_class())
    prepare(near_job("two", workers=2), tokenizer_class())
    monkeypatch.setattr(near_duplicate_jobs, "_KEYS_AT_ONCE", 70)
    monkeypatch.setattr(near_duplicate_jobs, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(near_duplicate_jobs, "_TOKENS_AT_ONCE", 900)
    prepare(near_job("three", workers=3), tokenizer_class())
    one, two, three = (sums_of(near_job(name).directory) for name in ("one", "two", "three"))
    assert one == two == three


def test_a_run_stopped_at_any_write_ends_the_same(near_job, tokenizer_class, monkeypatch):
    """Also in the search for near duplicates, and after it, when the tokens of some parts are gone."""
    prepare(near_job("whole"), tokenizer_class())
    left = [0]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    monkeypatch.setattr("os.fsync", fsync)
    in_search = 0
    for stop in range(20, 70, 8):
        job = near_job(f"stopped_{stop}")
        left[0] = stop
        try:
            prepare(job, tokenizer_class())
        except Interrupted:
            in_search += any(job.work_dir.glob("near_*"))
            prepare(job, tokenizer_class())
        assert sums_of(job.directory) == sums_of(near_job("whole").directory)
    assert in_search > 2


def test_a_damaged_file_of_the_search_is_named(near_job, tokenizer_class, monkeypatch):
    job = near_job()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.preparation.run.write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(job, tokenizer_class())
    path = next(job.work_dir.glob("near_*.links"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(PipelineError, match=r"near_\d+\.links is damaged: .*--restart"):
        prepare(job, tokenizer_class())


def test_the_first_of_a_chain_of_similar_documents_stays(near_job, tokenizer_class, articles):
    text = letters(300, 0)
    chain = [letters(300, 1), text, edited(text, 5), edited(text, 10), letters(300, 2), text.upper(), "a" * 50]
    job = near_job(threshold=0.5)
    job.shards[0].path.write_text("\n".join(chain) + "\n")
    job.shards[-1].path.write_text(f"{text}!\n")
    metadata = prepare(near_job(threshold=0.5), tokenizer_class())
    assert metadata["rejected"] == {"duplicate": 1, "near_duplicate": 3}
    tokens = np.concatenate(TokenDataset.open(job.directory).files)
    np.testing.assert_array_equal(tokens, stream_of([chain[n] for n in (0, 1, 4, 6)], tokenizer_class()))


def test_counts_and_examples_are_reported(near_job, tokenizer_class, articles):
    job = near_job()
    metadata = prepare(job, tokenizer_class())
    facts = metadata["near_duplicates"]
    removed = metadata["rejected"]["near_duplicate"]
    assert (facts["threshold"], facts["documents"], facts["clusters"]) == (0.8, removed, removed)
    assert (facts["tokens"], facts["bytes"]) == (removed * 302, removed * 300)
    examples = [json.loads(line) for line in (job.directory / "near_duplicates.jsonl").read_text().splitlines()]
    similarities = [example["similarity"] for example in examples]
    assert similarities == sorted(similarities)
    assert 0.8 <= similarities[0] < 0.9 < similarities[-1] < 1
    assert all("-" in example["removed"]["text"] and "-" not in example["earlier"]["text"] for example in examples)
    report = " ".join(summary(metadata, job.directory).split())
    assert f"removed: near_duplicate {removed}" in report
    assert f"clusters of near duplicates {removed}" in report


def test_another_similarity_is_noticed(near_job, tokenizer_class):
    base = near_job(threshold=None).dataset
    settings = {
        threshold: recipe(replace(base, near_duplicates=threshold), source="custom", test=False, evaluation=None)
        for threshold in (None, 0.8)
    }
    prepare(near_job("off", None, recipe=settings[None]), tokenizer_class())
    with pytest.raises(PipelineError, match=r"config near_duplicates absent \(now 0\.8\).*--restart"):
        prepare(near_job("off", recipe=settings[0.8]), tokenizer_class())
    metadata = prepare(near_job("off", recipe=settings[0.8], restart=True), tokenizer_class())
    assert metadata["rejected"]["near_duplicate"]
    off = near_job("off", None, recipe=settings[None], restart=True)
    assert "near_duplicates" not in prepare(off, tokenizer_class())
    assert not (off.directory / "near_duplicates.jsonl").exists()
