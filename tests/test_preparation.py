"""Both preparation stages with a tiny tokenizer: order, files, limits, errors."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.formats.cleaned_text import to_line
from pipeline.formats.raw_files import ParquetRows
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation import run as preparation
from pipeline.preparation.dataset_writer import check_tokenizer, file_bounds
from pipeline.preparation.free_disk import expected_size
from pipeline.preparation.input_shards import Batch, LineShard, Row, batches, record_shards
from pipeline.preparation.progress import ProgressLine
from pipeline.preparation.run import prepare
from pipeline.preparation.shard_output import INDEX_DTYPE, Part, PartState
from pipeline.preparation.worker import part_name
from tests.preparation_jobs import dataset_config, stream_of, sums_of
from utils.errors import PipelineError


def test_the_files_hold_all_articles_in_order(make_job, articles, tokenizer_class):
    metadata = prepare(make_job(), tokenizer_class())
    dataset = TokenDataset.open(make_job().directory)
    expected = stream_of(articles, tokenizer_class())
    np.testing.assert_array_equal(np.concatenate(dataset.files), expected)
    lengths = [len(tokens) for tokens in dataset.files]
    assert len(lengths) > 3
    assert len(set(lengths[:-1])) == 1
    assert list(dataset.damaged_files()) == []
    text_bytes = sum(len(article.encode()) for article in articles)
    assert metadata["totals"] == {
        "documents": 200,
        "tokens": len(expected),
        "bytes": text_bytes,
        "characters": sum(map(len, articles)),
        "windows": dataset.num_windows,
    }
    assert sum(entry["documents"] for entry in metadata["files"]) == 200
    assert metadata["files"][0]["source"] == ["cleaned_0.txt"]
    assert metadata["compression"]["bytes_per_token"] == pytest.approx(text_bytes / len(expected), abs=1e-6)
    assert metadata["token_byte_lengths"] == [0, 0, 0] + [1] * 256
    assert not make_job().work_dir.exists()


def test_shards_hold_every_line_once(tmp_path):
    path = tmp_path / "cleaned.txt"
    lines = [b"x" * (number * 37 % 90) + b"\n" for number in range(100)] + [b"no newline at the end"]
    path.write_bytes(b"".join(lines))
    size = path.stat().st_size
    for length in (1, 7, 89, 90, 91, 1000, size, size + 1):
        shards = [LineShard(path, start, min(start + length, size), "") for start in range(0, size, length)]
        assert [line for shard in shards for line in shard.lines()] == lines


def test_the_limit_takes_the_first_articles(make_job, articles, tokenizer_class):
    for limit in (1, 119, 120, 121, 150):
        job = make_job(f"first_{limit}", limit=limit, dataset=dataset_config(window=8))
        metadata = prepare(job, tokenizer_class())
        assert metadata["totals"]["documents"] == limit
        tokens = np.concatenate(TokenDataset.open(job.directory).files)
        np.testing.assert_array_equal(tokens, stream_of(articles[:limit], tokenizer_class()))


def test_max_files_limits_files_and_none_is_short():
    for tokens in (100, 1000, 12345, 10**6):
        for max_files in (1, 3, 38, 500):
            bounds = file_bounds(tokens, window=16, file_tokens=50, max_files=max_files)
            assert len(bounds) <= max_files
            assert bounds[0][0] == 0
            assert bounds[-1][1] == tokens
            assert all(before[1] == after[0] for before, after in pairwise(bounds))
            assert all(end - start >= 16 for start, end in bounds)


def test_too_little_text_for_a_window_is_refused(make_job, tokenizer_class):
    with pytest.raises(PipelineError, match=r"would have 45 tokens, fewer than one window of 512"):
        prepare(make_job(dataset=dataset_config(window=512), limit=1), tokenizer_class())
    job = make_job(dataset=dataset_config(window=45), limit=1)
    prepare(job, tokenizer_class())
    assert len(TokenDataset.open(job.directory)) == 1


def test_a_broken_line_is_named(make_job, tokenizer_class):
    job = make_job()
    job.shards[0].path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt is not valid UTF-8"):
        prepare(job, tokenizer_class())


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_class):
    tokenizer = tokenizer_class()
    check_tokenizer(tokenizer, 259)
    with pytest.raises(PipelineError, match=r"59 tokens, but model\.vocab_size is 32,016.*--set model\.vocab_size=259"):
        check_tokenizer(tokenizer, 32_016)
    tokenizer.vocab_size = 65_537
    with pytest.raises(PipelineError, match="at most 65,536"):
        check_tokenizer(tokenizer, 65_537)


def test_short_documents_are_counted(make_job, tokenizer_class, articles):
    metadata = prepare(make_job(min_tokens=50), tokenizer_class())
    short = sum(len(article.encode()) < 50 for article in articles)
    assert 0 < short < 200
    assert metadata["rejected"] == {"too_short": short}
    assert metadata["totals"]["documents"] == 200 - short


def test_of_repeated_documents_only_the_first_is_kept(make_job, tokenizer_class, articles):
    job = make_job()
    paths = [job.shards[0].path, job.shards[-1].path]
    again = [articles[150], articles[3].upper(), articles[3].replace(" ", "  "), "only here"]
    with paths[0].open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(to_line(article) + "\n" for article in again)
    unique = [*articles[:120], articles[150], "only here", *articles[120:150], *articles[151:]]
    for name, workers in (("one", 1), ("two", 2)):
        metadata = prepare(make_job(name, workers=workers), tokenizer_class())
        tokens = np.concatenate(TokenDataset.open(make_job(name).directory).files)
        np.testing.assert_array_equal(tokens, stream_of(unique, tokenizer_class()))
        assert metadata["rejected"] == {"duplicate": 3}
        assert metadata["totals"]["documents"] == 201
    assert sums_of(make_job("one").directory) == sums_of(make_job("two").directory)
    kept = prepare(make_job("all", dataset=dataset_config(deduplicate=False)), tokenizer_class())
    assert kept["totals"]["documents"] == 204


def test_comparing_hashes_in_groups_changes_nothing(make_job, tokenizer_class, monkeypatch):
    monkeypatch.setattr(preparation.Writer, "write", lambda *_, **__: [])
    monkeypatch.setattr(preparation, "metadata_of", lambda *_, **__: {})
    job = make_job()
    monkeypatch.setattr(preparation.shutil, "rmtree", lambda *_, **__: None)
    prepare(job, tokenizer_class())
    parts = [Part(job.work_dir, part_name(number)) for number in range(len(job.shards))]
    whole = preparation.kept_documents(parts)
    for at_once in (1, 10, 100):
        for mask, expected in zip(preparation.kept_documents(parts, at_once=at_once), whole, strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_too_small_a_disk_is_refused_at_once(make_job, tokenizer_class, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(PipelineError, match=r"needs .* KB of disk space, but only 1000 B is free; free some space"):
        prepare(make_job(), tokenizer_class())
    assert not list(make_job().work_dir.glob("shard_*"))


def test_the_expected_size_is_near_the_real_one(make_job, tokenizer_class):
    expected = expected_size(make_job(), tokenizer_class())
    metadata = prepare(make_job(), tokenizer_class())
    assert expected.tokens == pytest.approx(metadata["totals"]["tokens"], rel=0.1)
    limited = expected_size(make_job(limit=20), tokenizer_class())
    assert limited.tokens == pytest.approx(expected.tokens / 10, rel=0.2)


def test_the_progress_line_estimates_the_time_left():
    times = iter([0.0, 10.0, 10.0])
    line = ProgressLine(
        [PartState(rows=100, size=50_000_000, tokens=9)], total_size=90_000_000, clock=lambda: next(times)
    )
    line.rows, line.tokens, line.size = line.rows + 50, 1_200_000, line.size + 20_000_000
    assert line.postfix() == "1.2M tokens, ETA 10s, 2.0 MB/s"
    assert line.postfix(24) == "1.2M tokens, ETA 10s"
    line.close()


ALIKE = [f"Article {number:04}." for number in range(200)]  # 13 bytes each, 15 tokens


@pytest.fixture
def cleaned_alike(tmp_path, make_job):
    """Two cleaned files of a hundred articles, each with 1,500 tokens."""
    for name, part in (("cleaned_0.txt", ALIKE[:100]), ("cleaned_1.txt", ALIKE[100:])):
        (tmp_path / "cleaned" / name).write_text("".join(f"{article}\n" for article in part), newline="\n")


@pytest.mark.usefixtures("cleaned_alike")
def test_files_name_only_the_sources_that_are_in_them(make_job, tokenizer_class):
    metadata = prepare(make_job(), tokenizer_class())
    assert [entry["tokens"] for entry in metadata["files"]] == [1_500, 1_500]
    assert [entry["source"] for entry in metadata["files"]] == [["cleaned_0.txt"], ["cleaned_1.txt"]]
    assert [entry["documents"] for entry in metadata["files"]] == [100, 100]


@pytest.mark.usefixtures("cleaned_alike")
def test_the_expected_size_of_articles_alike_is_exact(make_job, tokenizer_class):
    expected = expected_size(make_job(workers=3), tokenizer_class())
    assert (expected.tokens, expected.dataset) == (3_000, 6_000)
    assert expected.at_most == 6_000 + 6_000 + 200 * INDEX_DTYPE.itemsize  # with two files, two workers write at once
    limited = expected_size(make_job(limit=50), tokenizer_class())
    assert limited.tokens == 750
    assert limited.at_most == 1_500 + 1_500 + 50 * INDEX_DTYPE.itemsize


def test_a_batch_is_limited_in_rows_and_in_characters(monkeypatch):
    monkeypatch.setattr("pipeline.preparation.input_shards.BATCH_CHARACTERS", 10)
    rows = [Row("abcd", None, 5), Row("", None, 1), Row("efghij", None, 7), Row("k", "spam", 2), Row("l", None, 3)]
    expected = [
        Batch(["abcd", "efghij"], rows=3, size=13, rejected={"empty": 1}),
        Batch(["l"], rows=2, size=5, rejected={"spam": 1}),
    ]
    assert list(batches(rows, batch_size=3)) == list(batches(rows, batch_size=9)) == expected
    assert [batch.rows for batch in batches(rows, batch_size=1)] == [1] * 5


def test_parquet_shards_hold_every_row_once(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    texts = [f"{number:03} " * 50 for number in range(100)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=7, compression="none", use_dictionary=False)
    with path.open("rb") as stream:
        sizes = ParquetRows(stream).group_sizes
    for limit in (2, 2 * sizes[0], 2 * sizes[0] + 2, 10**9):
        monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", limit)
        shards = record_shards([path], lambda fields: None)
        assert [row.text for shard in shards for row in shard.rows(0, None)] == texts
        assert sum(shard.size for shard in shards) == sum(sizes)
        assert all(shard.size >= limit // 2 for shard in shards[:-1])
        assert all(shard.size - sizes[0] < limit // 2 for shard in shards)
        middle = [row.text for row in shards[0].rows(2, 5)]
        assert middle == texts[2:5]
