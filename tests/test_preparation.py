"""The run behind both preparation stages, with a tokenizer of a few lines: order, files, resuming, refusals."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.formats.cleaned_text import to_line
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation import run as preparation
from pipeline.preparation.config import DatasetConfig
from pipeline.preparation.dataset_writer import check_tokenizer, file_bounds
from pipeline.preparation.free_disk import expected_size
from pipeline.preparation.input_shards import LineShard, line_shards
from pipeline.preparation.job import Preparation
from pipeline.preparation.progress import ProgressLine
from pipeline.preparation.run import prepare
from pipeline.preparation.shard_output import Part, PartState
from pipeline.preparation.worker import part_name, prepare_shard
from utils.errors import PipelineError, Terminated

FAKE = '''
import hashlib
import numpy as np

class ByteTokenizer:
    """Every byte is a token, after <unk>, <s>, </s>."""

    name, fingerprint, vocab_size, bos_id, eos_id = "bytes", "f" * 64, 259, 1, 2

    def encode(self, text):
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) + 3 for text in texts]

    def verify_batch(self, texts):
        pass

    def decode(self, ids):
        return bytes(int(i) - 3 for i in ids if i > 2).decode(errors="replace")

    def token_byte_lengths(self):
        return np.array([0, 0, 0] + [1] * 256)
'''


@pytest.fixture
def tokenizer_class(tmp_path, monkeypatch):
    """Importable by name, so that worker processes can load it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "byte_tokenizer_fake.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    import byte_tokenizer_fake

    yield byte_tokenizer_fake.ByteTokenizer
    sys.modules.pop("byte_tokenizer_fake", None)


@pytest.fixture
def articles():
    return [f"Article {number}.\n\nIt is {'very ' * (number % 7)}short,\nand ends – here." for number in range(200)]


@pytest.fixture
def make(tmp_path, tokenizer_class, articles, monkeypatch):
    """Makes a job over two cleaned files, in shards of 2,000 bytes so that there are several."""
    monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", 2000)
    cleaned = tmp_path / "cleaned"
    cleaned.mkdir()
    paths = [cleaned / "cleaned_0.txt", cleaned / "cleaned_1.txt"]
    for path, part in zip(paths, (articles[:120], articles[120:]), strict=True):
        path.write_text("".join(to_line(article) + "\n" for article in part), encoding="utf-8", newline="\n")

    def job(name: str = "dataset", **changes) -> Preparation:
        settings = {
            "directory": tmp_path / name,
            "shards": line_shards(paths),
            "load_tokenizer": tokenizer_class,
            "recipe": {"window": 16, "overlap": 0.5},
            "dataset": _dataset(),
            "workers": 1,
        }
        return Preparation(**{**settings, **changes})

    return job


def _dataset(**changes) -> DatasetConfig:
    return replace(DatasetConfig(window=16, overlap=0.5, file_tokens=1500, batch_size=7), **changes)


def _stream(articles, tokenizer) -> np.ndarray:
    return np.concatenate([[1, *ids, 2] for ids in tokenizer.encode_batch(articles)])


def _sums(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_the_files_are_the_stream_of_all_articles_in_order(make, articles, tokenizer_class):
    metadata = prepare(make(), tokenizer_class())
    dataset = TokenDataset.open(make().directory)
    expected = _stream(articles, tokenizer_class())
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
    assert not make().work_dir.exists()


def test_shards_hold_every_line_once(tmp_path):
    path = tmp_path / "cleaned.txt"
    lines = [b"x" * (number * 37 % 90) + b"\n" for number in range(100)] + [b"no newline at the end"]
    path.write_bytes(b"".join(lines))
    size = path.stat().st_size
    for length in (1, 7, 89, 90, 91, 1000, size, size + 1):
        shards = [LineShard(path, start, min(start + length, size), "") for start in range(0, size, length)]
        assert [line for shard in shards for line in shard.lines()] == lines


def test_workers_batches_and_shards_change_nothing(make, tokenizer_class, monkeypatch):
    prepare(make("one"), tokenizer_class())
    prepare(make("two", workers=2, dataset=_dataset(batch_size=50)), tokenizer_class())
    monkeypatch.setattr("pipeline.preparation.input_shards.SHARD_BYTES", 100_000)
    one, two, three = make("one"), make("two"), make("three")
    prepare(three, tokenizer_class())
    assert _sums(one.directory) == _sums(two.directory) == _sums(three.directory)


class Interrupted(BaseException):
    """A kill, as near as one process can come to it: nothing catches it."""


def test_a_run_stopped_at_any_write_goes_on_to_the_same_bytes(make, tokenizer_class, monkeypatch):
    """Dies in turn at the 1st, 24th, 47th … fsync of the run, then goes on; each time the result is the same."""
    whole = make("whole")
    prepare(whole, tokenizer_class())
    real_fsync = preparation.os.fsync
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
            prepare(make(f"stopped_{stop}"), tokenizer_class())
        except Interrupted:
            stops += 1
            left[0] = 3 * stop  # and once more, further on
            try:
                prepare(make(f"stopped_{stop}"), tokenizer_class())
            except Interrupted:
                prepare(make(f"stopped_{stop}"), tokenizer_class())
        else:
            break
        assert _sums(make(f"stopped_{stop}").directory) == _sums(whole.directory)
    assert stops > 5


def test_what_lies_beyond_a_parts_state_is_cut_off(make, tokenizer_class, monkeypatch):
    """A kill between writing tokens and writing the state leaves a tail, even of half a batch."""
    whole, torn = make("whole"), make("torn")
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
    assert _sums(torn.directory) == _sums(whole.directory)


def _three_batches_only(worker_job, number, shard, report):
    calls = iter(range(3))

    def stop_at_third(batch):
        if next(calls) == 2:
            raise KeyboardInterrupt

    prepare_shard(worker_job, number, shard, stop_at_third)


def test_the_limit_takes_the_first_articles(make, articles, tokenizer_class):
    for limit in (1, 119, 120, 121, 150):
        job = make(f"first_{limit}", limit=limit, dataset=_dataset(window=8))
        metadata = prepare(job, tokenizer_class())
        assert metadata["totals"]["documents"] == limit
        tokens = np.concatenate(TokenDataset.open(job.directory).files)
        np.testing.assert_array_equal(tokens, _stream(articles[:limit], tokenizer_class()))


def test_max_files_caps_the_files_and_the_last_is_never_short():
    for tokens in (100, 1000, 12345, 10**6):
        for max_files in (1, 3, 38, 500):
            bounds = file_bounds(tokens, window=16, file_tokens=50, max_files=max_files)
            assert len(bounds) <= max_files
            assert bounds[0][0] == 0
            assert bounds[-1][1] == tokens
            assert all(before[1] == after[0] for before, after in pairwise(bounds))
            assert all(end - start >= 16 for start, end in bounds)


def test_a_finished_dataset_is_left_alone_and_another_is_refused(make, tokenizer_class):
    job = make()
    prepare(job, tokenizer_class())
    before = {path: path.stat().st_mtime_ns for path in job.directory.iterdir()}
    prepare(job, tokenizer_class())
    assert before == {path: path.stat().st_mtime_ns for path in job.directory.iterdir()}
    other = replace(job, recipe={"window": 16, "overlap": 0.5, "max_files": 3})
    with pytest.raises(PipelineError, match=r"config max_files absent \(now 3\).*--restart"):
        prepare(other, tokenizer_class())
    prepare(replace(other, restart=True), tokenizer_class())


def _with_window(job: Preparation, window: int) -> Preparation:
    recipe = {**job.recipe, "window": window, "overlap": 0.25}
    return replace(job, dataset=_dataset(window=window, overlap=0.25), recipe=recipe)


def test_another_window_rewrites_only_the_metadata(make, tokenizer_class, capsys):
    job = make()
    prepare(job, tokenizer_class())
    before = {path: path.stat().st_mtime_ns for path in job.directory.glob("tokens_*.npy")}
    prepare(_with_window(job, 32), tokenizer_class())
    assert "windows of 32, one every 24 tokens, in place of 16 and 8" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in job.directory.glob("tokens_*.npy")}
    prepare(_with_window(make("fresh"), 32), tokenizer_class())
    assert _sums(job.directory) == _sums(make("fresh").directory)
    assert TokenDataset.open(job.directory).window == 32
    with pytest.raises(PipelineError, match=r"fewer than one window of 5000"):
        prepare(_with_window(job, 5000), tokenizer_class())


def test_an_unfinished_dataset_may_get_another_window(make, tokenizer_class, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(make(), tokenizer_class())
    prepare(_with_window(make(), 32), tokenizer_class())
    prepare(_with_window(make("fresh"), 32), tokenizer_class())
    assert _sums(make().directory) == _sums(make("fresh").directory)


def test_an_edited_input_is_noticed_though_its_size_is_the_same(make, tokenizer_class):
    prepare(make(), tokenizer_class())
    path = make().shards[-1].path
    path.write_text(path.read_text(encoding="utf-8").replace("short", "SHORT"), encoding="utf-8", newline="\n")
    with pytest.raises(PipelineError, match=r"cleaned_1\.txt has changed since .*dataset was made of it; .*--restart"):
        prepare(make(), tokenizer_class())
    prepare(make(restart=True), tokenizer_class())


def test_copies_with_other_times_are_the_same_input(make, tokenizer_class, capsys, monkeypatch):
    prepare(make(), tokenizer_class())
    os.utime(make().shards[0].path, ns=(1, 1))
    (make().directory / "input_times.json").write_text("{")
    prepare(make(), tokenizer_class())
    assert "complete already and made of the same input" in capsys.readouterr().out
    monkeypatch.setattr("pipeline.preparation.inputs.InputFile.content", lambda file: pytest.fail("read once more"))
    prepare(make(), tokenizer_class())


def test_an_input_that_changes_while_it_is_read_is_refused(make, tokenizer_class, monkeypatch):
    job = make()
    run_shards = preparation._run_shards

    def edited(*arguments):
        run_shards(*arguments)
        os.utime(job.shards[0].path, ns=(1, 1))

    monkeypatch.setattr(preparation, "_run_shards", edited)
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt has changed while it was read; .*--restart"):
        prepare(job, tokenizer_class())


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 200)], ids=["missing", "cut"])
def test_a_finished_dataset_without_all_its_tokens_is_refused(make, tokenizer_class, harm):
    prepare(make(), tokenizer_class())
    harm(make().directory / "tokens_1.npy")
    with pytest.raises(PipelineError, match=r"tokens_1\.npy is (missing|damaged or cut short).*--restart"):
        prepare(make(), tokenizer_class())


def test_another_tools_dataset_is_not_continued(make, tokenizer_class):
    job = make()
    job.directory.mkdir()
    np.save(job.directory / "tokens_0.npy", np.zeros((4, 16), dtype=np.uint16))
    (job.directory / "metadata.json").write_text("[]")
    with pytest.raises(PipelineError, match=r"dataset holds a token dataset of another tool; .*--restart"):
        prepare(job, tokenizer_class())


def test_resuming_with_another_tokenizer_or_input_is_refused_by_name(make, tokenizer_class, monkeypatch):
    job = make()
    monkeypatch.setattr(preparation, "_run_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(job, tokenizer_class())
    other = tokenizer_class()
    other.fingerprint = "e" * 64
    with pytest.raises(PipelineError, match=r"tokenizer fingerprint \"fff.*\(now \"eee"):
        prepare(job, other)
    path = job.shards[0].path
    path.write_text(path.read_text() + "one more\n")
    changed = make(shards=line_shards([path]))
    with pytest.raises(PipelineError, match=r"inputs cleaned_0\.txt"):
        prepare(changed, tokenizer_class())


def test_too_little_text_for_a_window_is_refused(make, tokenizer_class):
    with pytest.raises(PipelineError, match=r"would hold 45 tokens, fewer than one window of 512"):
        prepare(make(dataset=_dataset(window=512), limit=1), tokenizer_class())
    job = make(dataset=_dataset(window=45), limit=1)
    prepare(job, tokenizer_class())
    assert len(TokenDataset.open(job.directory)) == 1


def test_a_broken_line_is_named(make, tokenizer_class):
    job = make()
    job.shards[0].path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt is not UTF-8 text"):
        prepare(job, tokenizer_class())


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_class):
    tokenizer = tokenizer_class()
    check_tokenizer(tokenizer, 259)
    with pytest.raises(PipelineError, match=r"259 tokens, model\.vocab_size is 32,016.*--set model\.vocab_size=259"):
        check_tokenizer(tokenizer, 32_016)
    tokenizer.vocab_size = 65_537
    with pytest.raises(PipelineError, match="at most 65,536"):
        check_tokenizer(tokenizer, 65_537)


def test_short_documents_are_counted(make, tokenizer_class, articles):
    metadata = prepare(make(min_tokens=50), tokenizer_class())
    short = sum(len(article.encode()) < 50 for article in articles)
    assert 0 < short < 200
    assert metadata["rejected"] == {"too_short": short}
    assert metadata["totals"]["documents"] == 200 - short


def test_an_error_in_a_worker_process_comes_back_as_it_is(make, tokenizer_class):
    job = make(workers=2)
    job.shards[0].path.write_bytes(b"fine\n\xff\xfe\n" * 200)
    with pytest.raises(PipelineError, match=r"cleaned_0\.txt is not UTF-8 text"):
        prepare(job, tokenizer_class())


@pytest.fixture
def in_workers(tokenizer_class):
    """Makes a tokenizer that calls `act(first text)` whenever a worker process encodes."""
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
def test_a_killed_worker_ends_the_run_though_another_hangs(make, tokenizer_class, in_workers):
    def act(text):
        if text.startswith("Article 0."):
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    with pytest.raises(PipelineError, match=r"a worker process was killed.*run the same command again"):
        prepare(make("killed", workers=2), in_workers(act))
    assert multiprocessing.active_children() == []
    prepare(make("killed", workers=2), tokenizer_class())
    prepare(make("whole"), tokenizer_class())
    assert _sums(make("killed").directory) == _sums(make("whole").directory)


@pytest.mark.skipif(sys.platform != "linux", reason="workers share the test's tokenizer where they are forked")
def test_one_sigterm_ends_a_run_whose_workers_hang(make, in_workers):
    def act(text):
        if text.startswith("Article 0."):
            os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()

    def handler(number, frame):
        raise Terminated

    earlier = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Terminated):
            prepare(make(workers=2), in_workers(act))
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert multiprocessing.active_children() == []


def test_a_second_run_on_the_same_folder_is_refused(make, tokenizer_class, monkeypatch):
    monkeypatch.setattr("pipeline.jobs.runner.PATIENCE_SECONDS", 0.0)
    job = make()
    monkeypatch.setattr(preparation, "_begin", lambda *_: prepare(job, tokenizer_class()))
    with pytest.raises(PipelineError, match="being written by another run"):
        prepare(job, tokenizer_class())


def test_repeated_documents_are_left_out_but_the_first(make, tokenizer_class, articles):
    job = make()
    paths = [job.shards[0].path, job.shards[-1].path]
    again = [articles[150], articles[3].upper(), articles[3].replace(" ", "  "), "only here"]
    with paths[0].open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(to_line(article) + "\n" for article in again)
    unique = [*articles[:120], articles[150], "only here", *articles[120:150], *articles[151:]]
    for name, workers in (("one", 1), ("two", 2)):
        metadata = prepare(make(name, workers=workers), tokenizer_class())
        tokens = np.concatenate(TokenDataset.open(make(name).directory).files)
        np.testing.assert_array_equal(tokens, _stream(unique, tokenizer_class()))
        assert metadata["rejected"] == {"duplicate": 3}
        assert metadata["totals"]["documents"] == 201
    assert _sums(make("one").directory) == _sums(make("two").directory)
    kept = prepare(make("all", dataset=_dataset(deduplicate=False)), tokenizer_class())
    assert kept["totals"]["documents"] == 204


def test_comparing_hashes_in_groups_changes_nothing(make, tokenizer_class, monkeypatch):
    monkeypatch.setattr(preparation.Writer, "write", lambda *_, **__: [])
    monkeypatch.setattr(preparation, "metadata_of", lambda *_, **__: {})
    job = make()
    monkeypatch.setattr(preparation.shutil, "rmtree", lambda *_, **__: None)
    prepare(job, tokenizer_class())
    parts = [Part(job.work_dir, part_name(number)) for number in range(len(job.shards))]
    whole = preparation.kept_documents(parts)
    for at_once in (1, 10, 100):
        for mask, expected in zip(preparation.kept_documents(parts, at_once=at_once), whole, strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_space(make, tokenizer_class, monkeypatch):
    whole, full = make("whole"), make("full")
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
        with pytest.raises(PipelineError, match=r"the disk of .* is full; what is done is kept: make space"):
            prepare(full, tokenizer_class())
    prepare(full, tokenizer_class())
    assert _sums(full.directory) == _sums(whole.directory)


def test_too_small_a_disk_is_refused_before_anything_is_read(make, tokenizer_class, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(PipelineError, match=r"making it needs .* KB of disk and 1000 B are free; make space"):
        prepare(make(), tokenizer_class())
    assert not list(make().work_dir.glob("shard_*"))


def test_the_expected_size_is_near_the_real_one(make, tokenizer_class):
    expected = expected_size(make(), tokenizer_class())
    metadata = prepare(make(), tokenizer_class())
    assert expected.tokens == pytest.approx(metadata["totals"]["tokens"], rel=0.1)
    limited = expected_size(make(limit=20), tokenizer_class())
    assert limited.tokens == pytest.approx(expected.tokens / 10, rel=0.2)


def test_the_progress_line_says_what_is_left():
    times = iter([0.0, 10.0])
    line = ProgressLine(
        [PartState(rows=100, size=50_000_000, tokens=9)], total_size=90_000_000, clock=lambda: next(times)
    )
    line.rows, line.tokens, line.size = line.rows + 50, 1_200_000, line.size + 20_000_000
    assert line.postfix() == "1.2M tokens, 2.0 MB/s, ETA 10s"
    line.close()
