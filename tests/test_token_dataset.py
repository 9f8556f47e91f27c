"""The reader: windows are views, incomplete and damaged datasets are errors, older layouts are supported."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from pipeline.formats.token_dataset import (
    PreparedWindows,
    TokenDataset,
    num_windows,
    prepared_windows,
    window_starts,
    write_metadata,
)
from utils.checksums import sha256_of
from utils.errors import PipelineError


def _store(directory, streams, *, window=4, stride=2, **metadata):
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, stream in enumerate(streams):
        path = directory / f"tokens_{index}.npy"
        np.save(path, np.asarray(stream, dtype=np.uint16))
        entries.append({"name": path.name, "tokens": len(stream), "sha256": sha256_of(path)})
    content = {"format_version": 1, "window": window, "stride": stride, "files": entries, **metadata}
    (directory / "metadata.json").write_text(json.dumps(content))
    return directory


def test_windows_cover_every_token():
    for length in range(4, 40):
        starts = window_starts(length, 4, 3)
        assert len(starts) == num_windows(length, 4, 3)
        assert starts[0] == 0
        assert starts[-1] == length - 4
        covered = {position for start in starts for position in range(start, start + 4)}
        assert covered == set(range(length))
        assert (starts[:-1] == np.arange(len(starts) - 1) * 3).all()


def test_no_window_in_a_stream_shorter_than_one():
    assert num_windows(3, 4, 2) == 0
    assert len(window_starts(3, 4, 2)) == 0


def test_windows_are_views_across_files(tmp_path):
    dataset = TokenDataset.open(_store(tmp_path / "d", [range(9), range(100, 104)]))
    assert [list(window) for window in dataset] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
        [5, 6, 7, 8],
        [100, 101, 102, 103],
    ]
    assert len(dataset) == dataset.num_windows == 5
    assert dataset.num_tokens == 13
    assert dataset[1].dtype == np.uint16
    assert np.shares_memory(dataset[1], dataset.files[0])
    with pytest.raises(IndexError):
        dataset[5]


def test_a_window_given_wins_over_the_metadata(tmp_path):
    dataset = TokenDataset.open(_store(tmp_path / "d", [range(9)]), window=6, stride=6)
    assert [list(window) for window in dataset] == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]


def test_no_metadata_means_not_complete(tmp_path):
    directory = _store(tmp_path / "d", [range(9)])
    (directory / "metadata.json").unlink()
    with pytest.raises(PipelineError, match=r"no metadata\.json; run: python3 dataset_prep\.py --test"):
        TokenDataset.open(directory, command="python3 dataset_prep.py --test")
    with pytest.raises(PipelineError, match="does not exist"):
        TokenDataset.open(tmp_path / "nowhere")


def test_a_short_file_is_refused_by_name(tmp_path):
    with pytest.raises(PipelineError, match=r"d/tokens_0\.npy has 3 tokens, fewer than one window of 4"):
        TokenDataset.open(_store(tmp_path / "d", [range(3)]))


def test_missing_cut_or_foreign_files_are_refused(tmp_path):
    directory = _store(tmp_path / "d", [range(9), range(9)])
    whole = (directory / "tokens_1.npy").read_bytes()
    (directory / "tokens_1.npy").write_bytes(whole[:-4])
    with pytest.raises(PipelineError, match=r"tokens_1\.npy"):
        TokenDataset.open(directory)
    np.save(directory / "tokens_1.npy", np.arange(8, dtype=np.uint16))
    with pytest.raises(PipelineError, match=r"metadata\.json says 9 tokens"):
        TokenDataset.open(directory)
    np.save(directory / "tokens_1.npy", np.arange(9))
    with pytest.raises(PipelineError, match="int64; expected uint16"):
        TokenDataset.open(directory)
    (directory / "tokens_1.npy").write_bytes(whole + b"more")
    with pytest.raises(PipelineError, match=r"tokens_1\.npy has 4 extra bytes after the tokens; .*--restart"):
        TokenDataset.open(directory)
    (directory / "tokens_1.npy").write_bytes(whole[:20] + b"(" * 8 + whole[28:])
    with pytest.raises(PipelineError, match=r"tokens_1\.npy is damaged"):
        TokenDataset.open(directory)
    (directory / "tokens_1.npy").unlink()
    with pytest.raises(PipelineError, match=r"tokens_1\.npy is missing; copy it again"):
        TokenDataset.open(directory)


def test_damage_is_found_by_sha256(tmp_path):
    directory = _store(tmp_path / "d", [range(9), range(9)])
    assert list(TokenDataset.open(directory).damaged_files()) == []
    with (directory / "tokens_1.npy").open("r+b") as stream:
        stream.seek(-2, 2)
        stream.write(b"\xff\xff")
    assert list(TokenDataset.open(directory).damaged_files()) == ["tokens_1.npy"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b'{"format_version": 1, "window": 4, "str', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"format_version": 2}', "has format version 2, expected 1"),
        (b'{"format_version": 1, "window": 4, "stride": 2, "files": []}', "no window, stride or files"),
        (b'{"format_version": 1, "window": 4, "files": [{}]}', "'stride' is None, expected int"),
        (b'{"format_version": 1, "window": "4", "stride": 2, "files": [{}]}', "'window' is '4', expected int"),
        (b'{"format_version": 1, "window": 4, "stride": 2, "files": [3]}', "it has 3 instead of a file entry"),
        (
            b'{"format_version": 1, "window": 4, "stride": 2, "files": [{"name": "../t", "tokens": 9, "sha256": ""}]}',
            "it lists a file '../t', expected tokens_N.npy",
        ),
        (b'{"format_version": 1, "window": 4, "stride": 2, "files": [{}], "tokenizer": "x"}', "'tokenizer' is 'x'"),
    ],
)
def test_damaged_metadata_is_one_line_with_the_command(tmp_path, content, said):
    directory = _store(tmp_path / "d", [range(9)])
    (directory / "metadata.json").write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        TokenDataset.open(directory, command="python3 main.py prepare")
    assert said in str(caught.value)
    assert str(caught.value).endswith("run: python3 main.py prepare --restart")


def sealed_now(directory, content):
    write_metadata(directory, content)


def sealed_by_an_earlier_version(directory, content):
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (directory / "metadata.json").write_text(json.dumps({**content, "sha256": sha256}))


@pytest.mark.parametrize("seal", [sealed_now, sealed_by_an_earlier_version])
def test_metadata_edited_by_hand_is_refused(tmp_path, seal):
    directory = _store(tmp_path / "d", [range(9)])
    path = directory / "metadata.json"
    seal(directory, json.loads(path.read_text()))
    assert TokenDataset.open(directory).window == 4
    path.write_text(path.read_text().replace('"stride": 2', '"stride": 3'))
    with pytest.raises(PipelineError, match=r"does not match its checksum; .* --restart"):
        TokenDataset.open(directory)


def test_rewritten_metadata_has_one_checksum(tmp_path):
    directory = _store(tmp_path / "d", [range(9)])
    sealed_by_an_earlier_version(directory, json.loads((directory / "metadata.json").read_text()))
    write_metadata(directory, TokenDataset.open(directory).metadata)
    write_metadata(directory, TokenDataset.open(directory).metadata)
    content = json.loads((directory / "metadata.json").read_text())
    assert set(content) == {"format_version", "window", "stride", "files", "checksum"}


def test_an_unknown_id_is_named_with_its_place(tmp_path):
    directory = _store(tmp_path / "d", [range(9), [5, 6, 30, 7, 40]])
    TokenDataset.open(directory, vocab_size=41).check_ids()
    with pytest.raises(
        PipelineError,
        match=r"tokens_1\.npy contains token id 30 at position 2; expected ids below the vocabulary size of 30",
    ):
        TokenDataset.open(directory, vocab_size=30).check_ids()


OLDER_METADATA = [
    b'{"vocab_size": 32016, "window_size": 8}',
    b'{"tokenizer": "codellama"}',
    b'{"files": 3}',
    b'{"files": ["tokens_0.npy"], "window": "512", "stride": null}',
    b'{"vocab_size": "32016", "token_byte_lengths": 4}',
    b'{"format_version": "2.0"}',
    b"[1, 2]",
    b'"text"',
    b"123",
    b"null",
    b"\x00\xff garbage",
    b"",
]


@pytest.mark.parametrize("metadata", OLDER_METADATA)
def test_two_dimensional_arrays_can_be_read(tmp_path, metadata):
    directory = tmp_path / "old"
    directory.mkdir()
    for index in (0, 2, 10):
        np.save(directory / f"tokens_{index}.npy", np.full((2, 8), index, dtype=np.uint16))
    (directory / "metadata.json").write_bytes(metadata)
    dataset = TokenDataset.open(directory, window=4, stride=2)
    assert dataset.metadata == {}
    assert dataset.names == ("tokens_0.npy", "tokens_2.npy", "tokens_10.npy")
    assert list(dataset.damaged_files()) == []
    assert dataset.is_windowed
    assert dataset.window == 8
    assert dataset.num_windows == 6
    assert [window[0] for window in dataset] == [0, 0, 2, 2, 10, 10]
    assert list(dataset.starts_of(0)) == [0, 8]
    assert len(dataset.fingerprint) == 64


def test_fingerprint_identifies_the_data(tmp_path):
    first = TokenDataset.open(_store(tmp_path / "a", [range(9)]))
    same = TokenDataset.open(_store(tmp_path / "b", [range(9)]))
    other = TokenDataset.open(_store(tmp_path / "c", [range(1, 10)]))
    assert first.fingerprint == same.fingerprint != other.fingerprint


def test_the_reader_needs_numpy_alone():
    heavy = "{'torch', 'tokenizers', 'pyarrow', 'tqdm'}"
    code = f"import pipeline.formats.token_dataset, sys; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_unknown_id_is_found_in_every_block(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.formats.token_dataset._CHECKED_TOKENS", 2)
    dataset = TokenDataset.open(_store(tmp_path / "d", [[5, 6, 7, 8, 40]]), vocab_size=40)
    with pytest.raises(PipelineError, match=r"tokens_0\.npy contains token id 40 at position 4; "):
        dataset.check_ids()


def test_ids_are_checked_as_they_are_read(tmp_path):
    dataset = TokenDataset.open(_store(tmp_path / "d", [[5, 6, 7, 8, 40]]), vocab_size=40)
    dataset.refuse_unknown_ids(dataset.files[0][:4])
    dataset.refuse_unknown_ids(dataset.files[0][:0])
    with pytest.raises(PipelineError, match="token id 40"):
        dataset.refuse_unknown_ids(dataset.files[0])


@pytest.mark.parametrize("index", [-1, 5])
def test_a_window_outside_the_dataset_is_an_error(tmp_path, index):
    dataset = TokenDataset.open(_store(tmp_path / "d", [range(9), range(100, 104)]))
    with pytest.raises(IndexError, match=f"window {index} of 5"):
        dataset[index]


@pytest.mark.parametrize(
    ("config", "overlap"), [({"overlap": 0.0}, 0.0), ({"overlap": 1.0}, None), ({"overlap": "half"}, None), ({}, None)]
)
def test_the_windows_that_were_prepared_are_known(tmp_path, config, overlap):
    directory = _store(tmp_path / "d", [range(9)], config=config)
    assert prepared_windows(directory) == PreparedWindows(4, 2, overlap)


def test_rows_of_another_tool_have_a_fixed_window(tmp_path):
    np.save(tmp_path / "tokens_0.npy", np.zeros((3, 8), dtype=np.uint16))
    (tmp_path / "metadata.json").write_text('{"window": 5}')
    assert prepared_windows(tmp_path) == PreparedWindows(8, is_fixed=True)


def test_a_stream_of_another_tool_has_windows_from_its_metadata(tmp_path):
    np.save(tmp_path / "tokens_0.npy", np.arange(10, dtype=np.uint16))
    (tmp_path / "metadata.json").write_text('{"window": 5, "stride": 1}')
    dataset = TokenDataset.open(tmp_path)
    assert (dataset.window, dataset.stride, len(dataset)) == (5, 1, 6)
    assert prepared_windows(tmp_path) == PreparedWindows(5, 1)
    (tmp_path / "metadata.json").write_text('{"window": 5, "stride": 0}')
    with pytest.raises(PipelineError, match="does not specify a window and stride"):
        TokenDataset.open(tmp_path)


def test_an_older_dataset_keeps_its_fingerprint(tmp_path):
    np.save(tmp_path / "tokens_0.npy", np.arange(4_000, dtype=np.uint16).reshape(500, 8))
    (tmp_path / "metadata.json").write_text("{}")
    fingerprint = TokenDataset.open(tmp_path).fingerprint
    assert fingerprint == "626c42cad00e1dfe753b390682b90a242153e5927a2aa74f25130f44f7a1cf38"
