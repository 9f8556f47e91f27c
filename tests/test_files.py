"""Files exist complete or not at all."""

import os
import subprocess

import pytest

from utils.errors import PipelineError
from utils.files import (
    is_within,
    make_folder,
    refuse_overwriting,
    remove_stale_temporaries,
    use_default_mode,
    whole_file,
    write_json,
)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "folder" / "content.json"
    write_json(path, {"old": "ä"})
    assert path.read_text(encoding="utf-8") == '{\n  "old": "ä"\n}\n'
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", "a file takes bytes"])
    assert "old" in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["content.json"]


@pytest.mark.parametrize("has_links", [True, False])
def test_further_names_come_before_the_file_itself(tmp_path, monkeypatch, has_links):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: moved.append(target.name) or replace(source, target))
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    with whole_file(tmp_path / "latest", other_names=["best", "step_1"]) as file:
        file.write(b"content")
    assert moved == ["best", "step_1", "latest"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(moved, b"content")
    assert os.stat(tmp_path / "best").st_nlink == (3 if has_links else 1)


def refuse_link(source, target):
    raise OSError("this file system has no hard links")


def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = [f".tokens_0.npy.{ended.pid}.tmp", f".tokens_1.npy.{os.getpid()}.tmp"]
    kept = [
        f".tokens_2.npy.{os.getppid()}.tmp",  # its process still runs
        f".notes.txt.{ended.pid}.tmp",  # not a name that was asked about
        ".tokens_0.npy.tmp",
        ".mydata.tmp",
        "tokens_0.npy",
    ]
    for name in stale + kept:
        (tmp_path / name).touch()
    (tmp_path / f".tokens_9.npy.{ended.pid}.tmp").mkdir()
    (tmp_path / f".tokens_9.npy.{ended.pid}.tmp" / "inside").touch()
    stale += [f".tokens_9.npy.{ended.pid}.tmp"]
    removed = remove_stale_temporaries(tmp_path, "tokens_*.npy")
    assert sorted(path.name for path in removed) == sorted(stale)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert remove_stale_temporaries(tmp_path / "absent", "*") == []


def test_a_folder_is_recognised_through_links(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    assert is_within(tmp_path / "link", tmp_path / "data")
    assert is_within(tmp_path / "data" / "not" / "yet", tmp_path / "link")
    assert not is_within(tmp_path, tmp_path / "data")
    assert not is_within(tmp_path / "data", tmp_path / "missing")


def test_an_input_that_would_be_overwritten_is_refused(tmp_path):
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    refuse_overwriting([tmp_path / "b.txt"], [tmp_path / "a.txt"])
    with pytest.raises(PipelineError, match=r"link\.txt is an input file and would be overwritten"):
        refuse_overwriting([tmp_path / "b.txt", tmp_path / "link.txt"], [tmp_path / "a.txt"])


def test_a_new_folder_and_its_parents_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_private_file_gets_the_mode_of_new_files(tmp_path):
    path = tmp_path / "weights"
    path.touch(mode=0o600)
    umask = os.umask(0o027)
    try:
        use_default_mode(path)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
