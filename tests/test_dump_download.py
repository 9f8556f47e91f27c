"""dataset_prep.py --download: a dump arrives whole from a server that breaks connections, or the error says why not."""

import bz2
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dataset_prep
from pipeline.cleaning.plan import plan_jobs
from pipeline.formats.raw_files import RawFile
from pipeline.preparation import dump_download, file_download
from pipeline.preparation.downloads import Retries
from pipeline.preparation.file_download import ListedFile, save_file
from pipeline.preparation.wiki_dumps import dump_server
from utils.cli import exit_code_of
from utils.errors import PipelineError
from utils.locks import only_run

ROOT = Path(__file__).resolve().parent.parent
RANGES = ("1.xml-p1p9", "2.xml-p10p19", "2.xml-p20p29")  # the last pieces of a large dump share a number


def name_of(pages: str, date: str = "20251101") -> str:
    return f"enwiki-{date}-pages-articles-multistream{pages}.bz2"


def content_of(pages: str) -> bytes:
    text = hashlib.shake_256(pages.encode()).hexdigest(1500)
    return bz2.compress(f"<mediawiki><page><title>{pages}</title><text>{text}</text></page></mediawiki>".encode())


CONTENTS = {name_of(pages): content_of(pages) for pages in RANGES}
FIRST, SECOND, THIRD = CONTENTS


def listing(contents: dict[str, bytes], status: str = "done") -> dict:
    files = {
        name: {"size": len(content), "url": f"/elsewhere/{name}", "sha1": hashlib.sha1(content).hexdigest()}
        for name, content in contents.items()
    }
    index = {"enwiki-20251101-pages-articles-multistream-index1.txt-p1p9.bz2": {"size": 9, "sha1": "0"}}
    return {"jobs": {"articlesmultistreamdump": {"status": status, "files": {**files, **index}}}}


class Dumps:
    """A dump server. `faults` has what goes wrong with the next requests for files, one each; then all is well."""

    def __init__(self) -> None:
        self.files = dict(CONTENTS)
        self.states: dict[str, object] = {"20251101": listing(CONTENTS), "20251001": listing({}, "failed")}
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.client: subprocess.Popen[bytes] | None = None
        dumps = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                dumps.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        assert "Authorization" not in request.headers
        assert "language-model-pipeline" in request.headers["User-Agent"]
        _, wiki, date, *rest = request.path.split("/")
        if wiki != "enwiki" or (date and date not in self.states):
            send(request, 404, b"")
        elif not date:
            dates = "".join(f'<a href="{date}/">{date}/</a>\n' for date in self.states)
            send(request, 200, f'<a href="../">../</a>\n{dates}<a href="latest/">latest/</a>'.encode())
        elif rest == ["dumpstatus.json"]:
            state = self.states[date]
            send(request, 404 if state is None else 200, json.dumps(state).encode())
        else:
            self.send_file(request, rest[0])

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content = self.files[name]
        start = int(request.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.requests.append(f"{name} {start}")
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "kill":
            assert self.client
            os.kill(self.client.pid, signal.SIGKILL)
        elif fault == "cut":
            send(request, 206, content[start:], start, whole=len(content), sent=(len(content) - start) // 2)
        elif fault in ("429", "500"):
            send(request, int(fault), b"", retry_after="7" if fault == "429" else None)
        elif fault == "endless":
            send(request, 206, content[start:] + b"!", start, whole=len(content), stated=False)
        elif fault == "ignore":
            send(request, 200, content)
        elif fault == "none":
            send(request, 206, content[start:], start, whole=len(content))
        else:
            assert fault == "close"  # without an answer


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    start: int = 0,
    *,
    whole: int = 0,
    sent: int | None = None,
    retry_after: str | None = None,
    stated: bool = True,
) -> None:
    request.send_response(status)
    if stated:
        request.send_header("Content-Length", str(len(body)))
    if status == 206:
        request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
    if retry_after:
        request.send_header("Retry-After", retry_after)
    request.end_headers()
    request.wfile.write(body[:sent])


@pytest.fixture
def dumps():
    dumps = Dumps()
    yield dumps
    dumps.server.shutdown()
    dumps.server.server_close()


@pytest.fixture
def config(dumps, tmp_path):
    content = {
        "paths": {"raw_dir": "raw"},
        "dataset": {"dumps_url": dumps.url},
        "fineweb": {"retries": 3, "retry_seconds": 0.0},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    return str(tmp_path / "config.json")


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def run(config: str, *more: str) -> int:
    return exit_code_of(lambda: dataset_prep.main(["--config", config, "--download", "enwiki", *more]))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save(dumps: Dumps, folder: Path, *, attempts: int = 3, waits: list[float] | None = None, **changes: object) -> int:
    """Download the first file; returns what the progress bar adds up to."""
    content = CONTENTS[FIRST]
    file = ListedFile(FIRST, f"/enwiki/20251101/{FIRST}", len(content), hashlib.sha1(content).hexdigest())
    retries = Retries(attempts, 0.0, sleep=[].append if waits is None else waits.append)
    counts = [part.stat().st_size for part in folder.glob("*.part") if part.is_file()]
    save_file(dump_server(dumps.url, retries), replace(file, **changes), folder, advance=counts.append)
    return sum(counts)


def test_the_cleaner_reads_what_was_downloaded(dumps, config, raw, capsys):
    assert run(config) == 0
    assert contents(raw) == CONTENTS
    assert len({job.name for job in plan_jobs(raw)}) == 3
    with RawFile(raw / FIRST) as file:
        assert [record.value["title"] for record in file.records()] == [RANGES[0]]
    output = capsys.readouterr().out
    assert "enwiki 20251101: 3 files, " in output
    assert output.endswith(f"next: python3 main.py cleanup --input {raw}\n")


def test_a_bad_network_loses_no_bytes(dumps, config, raw, capsys):
    dumps.faults = ["cut", "close", "cut", "500", "none", "ignore", "none"]
    assert run(config) == 0
    assert contents(raw) == CONTENTS
    size = len(CONTENTS[FIRST])
    half = size // 2
    most = half + (size - half) // 2
    assert dumps.requests == [
        *(f"{FIRST} {start}" for start in (0, half, half, most, most)),
        f"{SECOND} 0",
        f"{THIRD} 0",
    ]
    assert "returned 500 Internal Server Error; retrying" in capsys.readouterr().err


def test_a_busy_server_is_given_its_time(dumps, raw):
    dumps.faults = ["429"]
    waits: list[float] = []
    save(dumps, raw, waits=waits)
    assert waits == [7.0]


def test_a_server_that_ignores_ranges_starts_again(dumps, config, raw, capsys):
    (raw / f"{FIRST}.part").write_bytes(CONTENTS[FIRST][:100])
    dumps.faults = ["ignore"]
    assert run(config) == 0
    assert contents(raw) == CONTENTS
    assert f"ignores ranges; {FIRST} starts again from 0" in capsys.readouterr().err


def test_more_than_was_listed_is_discarded(dumps, raw, monkeypatch):
    monkeypatch.setattr(file_download, "CHUNK_BYTES", 100)
    dumps.faults = ["endless"]
    assert save(dumps, raw) == len(CONTENTS[FIRST])
    assert contents(raw) == {FIRST: CONTENTS[FIRST]}
    assert dumps.requests == [f"{FIRST} 0", f"{FIRST} 0"]


@pytest.mark.parametrize("fault", ["close", "500"])
def test_a_dead_server_is_given_up(dumps, raw, fault):
    dumps.faults = [fault] * 9
    with pytest.raises(PipelineError, match=r"multistream1.* 3 times in a row"):
        save(dumps, raw)
    assert len(dumps.requests) == 3


@pytest.mark.parametrize(("fault", "change"), [("none", -1), ("none", 1), ("ignore", -1), ("ignore", 1)])
def test_a_file_of_another_size_is_refused(dumps, raw, fault, change):
    dumps.faults = [fault]
    with pytest.raises(PipelineError, match=r"expected (bytes|206, or 200)"):
        save(dumps, raw, attempts=1, size=len(CONTENTS[FIRST]) + change)
    assert contents(raw) == {f"{FIRST}.part": b""}


def test_a_killed_download_continues_where_it_was(dumps, config, raw):
    dumps.faults = ["none", "cut", "kill"]
    command = [sys.executable, ROOT / "dataset_prep.py", "--config", config, "--download", "enwiki"]
    dumps.client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert dumps.client.wait() == -signal.SIGKILL
    half = len(CONTENTS[SECOND]) // 2
    assert contents(raw) == {FIRST: CONTENTS[FIRST], f"{SECOND}.part": CONTENTS[SECOND][:half]}
    dumps.requests.clear()
    assert run(config) == 0
    assert contents(raw) == CONTENTS
    assert dumps.requests == [f"{SECOND} {half}", f"{THIRD} 0"]


def test_ctrl_c_keeps_what_has_arrived(dumps, config, raw, monkeypatch):
    dumps.faults = ["cut"]

    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Retries, "wait", press)
    assert run(config) == 130
    assert contents(raw) == {f"{FIRST}.part": CONTENTS[FIRST][: len(CONTENTS[FIRST]) // 2]}


def test_finished_files_are_verified_not_fetched(dumps, config, raw, capsys):
    for name, content in CONTENTS.items():
        (raw / name).write_bytes(content if name != SECOND else content[:-1] + b"!")
    (raw / f"{THIRD}.part").write_bytes(b"left over")
    assert run(config) == 0
    assert {name: contents(raw)[name] for name in CONTENTS} == CONTENTS
    assert dumps.requests == [f"{SECOND} 0"]
    output = capsys.readouterr().out
    assert f"{SECOND} is damaged or incomplete; downloading it again" in output
    assert "warning" not in output


def test_a_complete_part_only_needs_its_name(dumps, raw):
    (raw / f"{FIRST}.part").write_bytes(CONTENTS[FIRST])
    save(dumps, raw)
    assert (contents(raw), dumps.requests) == ({FIRST: CONTENTS[FIRST]}, [])


def test_a_part_that_is_too_long_starts_again(dumps, raw):
    (raw / f"{FIRST}.part").write_bytes(CONTENTS[FIRST] + b"!")
    assert save(dumps, raw) == len(CONTENTS[FIRST])
    assert (contents(raw), dumps.requests) == ({FIRST: CONTENTS[FIRST]}, [f"{FIRST} 0"])


def test_a_wrong_sum_removes_the_part(dumps, config, raw, capsys):
    right = CONTENTS[SECOND]
    dumps.files[SECOND] = wrong = right[:-1] + b"!"
    assert run(config) == 1
    error = capsys.readouterr().err
    found, expected = hashlib.sha1(wrong).hexdigest(), hashlib.sha1(right).hexdigest()
    assert f"error: {SECOND} was damaged: its sha1 is {found}, expected {expected}; it was removed" in error
    assert contents(raw) == {FIRST: CONTENTS[FIRST]}


def test_a_full_disk_is_refused_first(dumps, config, raw, monkeypatch, capsys):
    missing = sum(map(len, CONTENTS.values())) - 1000
    (raw / f"{FIRST}.part").write_bytes(CONTENTS[FIRST][:1000])
    monkeypatch.setattr(dump_download, "free_disk", lambda folder: missing - 1)
    assert run(config) == 1
    assert "needs 4.0 KB more in" in (error := capsys.readouterr().err)
    assert "but only 4.0 KB is free" in error
    assert dumps.requests == []
    monkeypatch.setattr(dump_download, "free_disk", lambda folder: missing)
    assert run(config) == 0


def test_a_disk_that_fills_up_is_not_the_network(dumps, raw):
    (raw / f"{FIRST}.part").symlink_to("/dev/full")
    with pytest.raises(PipelineError, match=r"\.part cannot be written: No space left"):
        save(dumps, raw)
    assert len(dumps.requests) == 1


def test_latest_is_the_newest_complete_dump(dumps, config, raw, capsys):
    dumps.states |= {"20251201": None, "20251120": listing(CONTENTS, "in-progress"), "20241101": listing(CONTENTS)}
    assert run(config) == 0
    assert set(contents(raw)) == set(CONTENTS)
    dumps.states["20251120"] = listing({name_of(".xml", "20251120"): CONTENTS[FIRST]})
    dumps.files[name_of(".xml", "20251120")] = CONTENTS[FIRST]
    capsys.readouterr()
    assert run(config) == 0
    assert f"raw has 3 other files, such as {FIRST}; the cleaner reads every" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--download", "enwikii"], 1, "/enwikii/ does not exist; expected the name of a wiki, such as enwiki"),
        (["--download", "../x"], 2, "--download '../x', expected the name of a wiki"),
        (["--date", "20250101"], 1, "no dump of 20250101, only of 20251101, 20251001; try: python3 dataset_prep.py"),
        (["--date", "today"], 2, "--date 'today', expected YYYYMMDD or latest"),
        (["--date", "20251001"], 1, "20251001 is 'failed', expected 'done'; choose another with --date (20251101)"),
        (["--set", "dataset.dumps_url=dumps"], 1, "dataset.dumps_url is 'dumps', expected an address"),
        (["--set", "dataset.dumps_url=http://127.0.0.1:1"], 1, "check the network, set dataset.dumps_url to a mirror"),
    ],
)
def test_what_cannot_be_downloaded_is_explained(dumps, config, capsys, arguments, code, told):
    assert run(config, *arguments) == code
    assert told in capsys.readouterr().err


def test_a_wiki_without_dumps_is_named(dumps, config, capsys):
    dumps.states.clear()
    assert run(config) == 1
    assert "/enwiki/ lists no dates, expected folders such as 20251101/" in capsys.readouterr().err


@pytest.mark.parametrize("status", [[], {}, {"jobs": {}}, {"jobs": {"articlesmultistreamdump": {"status": "done"}}}])
def test_a_listing_of_another_form_is_named(dumps, config, capsys, status):
    dumps.states["20251101"] = status
    assert run(config) == 1
    assert "/enwiki/20251101/dumpstatus.json " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--date", "latest"], ["--download", "enwiki", "--test"], ["--download", "enwiki", "--restart"]]
)
def test_options_that_cannot_take_effect_are_refused(options):
    with pytest.raises(SystemExit, match="2"):
        dataset_prep.parse_args(options)


def test_two_downloads_do_not_share_a_folder(dumps, config, raw, monkeypatch, capsys):
    monkeypatch.setattr(
        dump_download, "only_run", lambda folder, refusal, *, patience: only_run(folder, refusal, patience=0.0)
    )
    with only_run(raw, "", patience=0.0):
        assert run(config) == 1
    assert "raw is in use by another download; wait for it or stop it" in capsys.readouterr().err
