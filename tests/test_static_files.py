"""Packaged files over HTTP: types, caching, the page policy, and no other file of the machine."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pipeline.web.static_files import PackagedFiles
from pipeline.web.theme import THEME_FILE


@pytest.fixture
def client(tmp_path, monkeypatch):
    folder = tmp_path / "page"
    (folder / "vendor").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Page</title>")
    (folder / "vendor" / "library.js").write_text("export {};")
    (folder / "notes.py").write_text("secret = 1")
    (tmp_path / "outside.txt").write_text("secret")
    files = PackagedFiles(folder, THEME_FILE)
    app = Starlette()
    app.add_route("/static/{name:path}", files.serve)
    app.add_route("/", files.page("index.html"))
    monkeypatch.chdir(Path("/"))  # files are found from any working directory
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/static/theme.css", "text/css; charset=utf-8"),
        ("/static/vendor/library.js", "text/javascript; charset=utf-8"),
        ("/", "text/html; charset=utf-8"),
    ],
)
def test_files_have_the_type_that_browsers_require(client, path, kind):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_not_sent_again(client):
    first = client.get("/static/theme.css")
    again = client.get("/static/theme.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_page_may_load_nothing_from_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "%2e%2e/outside.txt", "..%2foutside.txt", "/etc/hostname", "%2fetc%2fhostname",
     "vendor/../notes.py", "notes.py", "vendor", "", "theme.css%00"],
)  # fmt: skip
def test_other_files_are_never_served(client, name):
    assert client.get(f"/static/{name}").status_code == 404
