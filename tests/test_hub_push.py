"""`export.py --push` against a hub on loopback: what is uploaded, what a second push sends, and each refusal."""

import pytest

import export
from tests.fake_hub import running_hub
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.cli import exit_code_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported folder."""
    place = tmp_path_factory.mktemp("push")
    checkpoint = small_checkpoint(place / "a.pt", trained_tokenizer(place / "tokenizer"))
    assert export.main(["--checkpoint", str(checkpoint), "--output", str(place / "out")]) == 0
    return place / "out"


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet's storage has a protocol of its own
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def push(folder, repository="me/tiny", *more):
    return exit_code_of(lambda: export.main(["--output", str(folder), "--push", repository, *more]))


def test_a_push_uploads_exactly_the_export(folder, hub, capsys):
    assert push(folder, "me/tiny", "--private") == 0
    assert hub.files["me/tiny"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.private["me/tiny"]
    assert f"{hub.url}/me/tiny: uploaded" in capsys.readouterr().out


def test_a_second_push_uploads_nothing(folder, hub, capsys):
    assert push(folder) == 0
    hub.requests.clear()
    assert push(folder) == 0
    assert hub.num_commits == 1
    assert not [path for method, path in hub.requests if method == "PUT" or "/commit/" in path]
    assert "already up to date" in capsys.readouterr().out


def test_an_interrupted_push_is_completed(folder, hub):
    content = (folder / "model.safetensors").read_bytes()
    hub.fail_commits = 1
    assert push(folder) == 1
    assert list(hub.objects.values()) == [content]
    hub.requests.clear()
    assert push(folder) == 0
    assert not [path for method, path in hub.requests if method == "PUT"], "the weights are there already"
    assert hub.files["me/tiny"]["model.safetensors"] == content


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "hf auth login"), (403, "write access"), (400, "the hub refused the upload (400")]
)
def test_a_refusal_is_one_line_with_the_remedy(folder, hub, capsys, status, remedy):
    hub.refuse = status
    assert push(folder) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert remedy in error
    assert "not allowed" in error
    assert f"python3 export.py --output {folder} --push me/tiny" in error
    assert "hf_secret" not in error


def test_an_unreachable_hub_is_one_line(folder, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert push(folder) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the upload to http://127.0.0.1:9 failed" in error


def test_a_public_repository_is_not_pushed_to_as_private(folder, hub, capsys):
    assert push(folder) == 0
    assert push(folder, "me/tiny", "--private") == 1
    assert "already exists and is public" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b/c", "-x", "me/m$", "me/"])
def test_an_invalid_name_is_refused_before_the_export(hub, tmp_path, capsys, name):
    arguments = ["--checkpoint", "missing", "--output", str(tmp_path / "out"), f"--push={name}"]
    assert exit_code_of(lambda: export.main(arguments)) == 1
    assert f"--push {name}: expected USER/NAME" in capsys.readouterr().err
    assert not hub.requests


def test_a_missing_token_is_named_before_the_export(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    arguments = ["--checkpoint", "missing", "--output", str(tmp_path / "out"), "--push", "me/tiny"]
    assert exit_code_of(lambda: export.main(arguments)) == 1
    assert "run: hf auth login, or set HF_TOKEN" in capsys.readouterr().err


def test_only_intact_exports_are_pushed(folder, hub, tmp_path, capsys):
    import shutil

    (tmp_path / "mine").mkdir()
    assert push(tmp_path / "mine") == 1
    assert "is not an export" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert push(tmp_path / "copy") == 1
    assert "config.json" in capsys.readouterr().err
    assert not hub.requests


@pytest.mark.parametrize("arguments", [["--push", "me/a"], ["--private", "--checkpoint", "a", "--output", "b"]])
def test_push_options_without_their_partner_are_usage_errors(arguments, capsys):
    assert exit_code_of(lambda: export.main(arguments)) == 2
