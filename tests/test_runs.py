"""The runs page's view of logs, checkpoint folders and benchmark results, and its answers over HTTP."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from checks.import_graph import CHECKOUT
from pipeline.configuration import Config, PathsConfig
from pipeline.formats.checkpoint import only_training_run
from pipeline.runs import routes as routes_module
from pipeline.runs.number_table import NumberTable, lowest_and_highest, moving_mean
from pipeline.runs.routes import RunsRoutes, create_app, runs_page
from pipeline.runs.run_log import RunLog
from pipeline.runs.run_store import RunStore
from pipeline.training.log_position import LogPosition
from utils.errors import PipelineError
from utils.logging_utils import DualLogger

RUN = "run_2026_01_31_12_00"
NOW = time.time()


class Folder:
    """Logs, checkpoints and results of a test."""

    def __init__(self, root: Path) -> None:
        self.paths = PathsConfig(
            log_dir=root / "logs", checkpoint_dir=root / "checkpoints", benchmark_dir=root / "benchmark_results"
        )
        self.store = RunStore(self.paths)

    def log(self, *lines: dict | str, run: str = RUN, whole: bool = True) -> Path:
        """Append lines to a log; with `whole` False the last one has no line break yet."""
        path = self.store.log_folder / f"{run}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(texts) + ("\n" if whole else ""))
        return path

    def checkpoint(self, name: str = "latest", *, run: str = RUN) -> Path:
        path = self.paths.checkpoint_dir / run / f"checkpoint_{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return path

    def results(self, **models: dict) -> None:
        self.paths.benchmark_dir.mkdir(exist_ok=True)
        content = {"created": "2026-01-31 13:00:00", "sets": {"lambada": {"mark": "sample"}}, "models": models}
        (self.paths.benchmark_dir / "benchmark_1.json").write_text(json.dumps(content))

    def summary(self, run: str = RUN) -> dict:
        self.store.refresh()
        return self.store.summaries()[run]

    def series(self, run: str = RUN) -> RunLog:
        self.store.refresh()
        log = self.store.log(run)
        assert log is not None
        return log


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def client(folder, monkeypatch) -> TestClient:
    monkeypatch.setattr(routes_module, "SECONDS_BETWEEN_LOOKS", 0.0)
    app, _ = create_app(replace(Config(), paths=folder.paths))
    return TestClient(app, base_url="http://localhost")


def start(**training) -> dict:
    return {"event": "start", "step": 0, "time": NOW - 1000, "config": {"training": {"max_steps": 100, **training}}}


def begin(total: int = 100) -> dict:
    return {"event": "training", "step": 0, "time": NOW - 1000, "total_steps": total, "device": "cpu"}


def step(number: int, loss: float = 1.0, **values) -> dict:
    return {"step": number, "time": NOW - 1000 + number, "train_loss": loss, "train_tokens": number * 10, **values}


def end(number: int, reason: str = "finished") -> dict:
    return {"event": "end", "step": number, "time": NOW, "reason": reason}


def curve(table: NumberTable, name: str = "train_loss", **options) -> tuple[list, list]:
    x, y = table.points(name, **{"axis": "step", "most": 1000, **options})
    return x.tolist(), y.tolist()


# ---- reading a growing log


def test_only_appended_lines_are_read(folder, monkeypatch):
    folder.log(start(), step(1), step(2))
    log = folder.series()
    parsed = []
    original = RunLog._add
    monkeypatch.setattr(RunLog, "_add", lambda self, line: (parsed.append(line["step"]), original(self, line)))
    folder.log(step(3), step(4))
    assert folder.series() is log
    assert parsed == [3, 4]
    assert curve(log.training)[0] == [1, 2, 3, 4]


def test_a_half_written_line_is_read_when_it_is_whole(folder):
    text = json.dumps(step(2, 0.5))
    folder.log(step(1), text[:20], whole=False)
    assert curve(folder.series().training) == ([1], [1.0])
    folder.log(text[20:])
    assert curve(folder.series().training) == ([1, 2], [1.0, 0.5])


def test_a_resumed_run_shows_each_step_once(folder):
    logger = DualLogger(folder.paths.log_dir, RUN)
    for number in range(1, 9):
        logger.log(step=number, train_loss=float(number))
    logger.close()
    assert len(curve(folder.series().training)[0]) == 8
    resumed = DualLogger(folder.paths.log_dir, RUN, resume=LogPosition(3))
    for number in range(4, 11):
        resumed.log(step=number, train_loss=number * 10.0)
    resumed.close()
    assert curve(folder.series().training) == (list(range(1, 11)), [1, 2, 3, *range(40, 101, 10)])


def test_a_rewritten_file_is_read_again(folder):
    path = folder.log(step(1, 1.0), step(2, 1.0))
    folder.series()
    path.write_text(path.read_text().replace("1.0", "2.0") + json.dumps(step(3)) + "\n")  # same file, longer
    assert curve(folder.series().training)[1] == [2.0, 2.0, 1.0]


def test_steps_that_repeat_after_a_crash_replace_the_earlier(folder):
    folder.log(step(1), step(2), step(3, 9.0), step(2, 5.0), step(3, 6.0))
    assert curve(folder.series().training) == ([1, 2, 3], [1.0, 5.0, 6.0])


def test_two_lines_of_one_validation_are_one_row(folder):
    losses = [{"step": step, "val_loss": 3.0 - step} for step in (0, 1)]
    kept = [{"step": step, "val_base_bits_per_byte": 1.0 + step} for step in (0, 1)]
    folder.log(losses[0], kept[0], losses[1], kept[1], losses[1] | {"val_loss": 9.0})
    validation = folder.series().validation
    assert curve(validation, "val_loss") == ([0, 1], [3.0, 9.0])
    assert curve(validation, "val_base_bits_per_byte") == ([0], [1.0])  # a repeated step drops what it had


def test_nan_and_foreign_lines_are_gaps_not_errors(folder):
    broken = ['{"step": 2, "time": 1, "train_loss": NaN}', '{"step": 3, "train_loss": Infinity}', "[1]", "\x00\xff", ""]
    broken += ['{"step": "4"}', '{"step": 5, "train_loss": "low", "val_loss": null}', "[" * 5000]
    folder.log(step(1, 1.0), *broken, step(9, 0.5))
    assert curve(folder.series().training) == ([1, 9], [1.0, 0.5])
    assert folder.summary()["step"] == 9


def test_no_damage_to_a_log_is_an_error(client, folder):
    lines = [start(sample_prompts=["Once"]), begin(), *map(step, range(1, 8))]
    lines += [{"event": "sample", "step": 7, "time": NOW, "text": "Once"}, {"step": 7, "time": NOW, "val_loss": 1.0}]
    lines += [{"event": "rollback", "step": 6, "from_step": 7, "time": NOW, "reason": "x"}, end(8)]
    path = folder.log(*lines)
    whole = path.read_bytes()
    pieces = [
        b'"',
        b"{",
        b"}",
        b":null",
        b"1e999",
        b"9" * 400,
        b"-",
        b"NaN",
        b"[]",
        b"\n",
        b"\xff",
        b"true",
        b"\\ud800",
    ]
    random = np.random.default_rng(0)
    for _ in range(50):
        place, length = int(random.integers(len(whole))), int(random.integers(6))
        path.write_bytes(whole[:place] + pieces[random.integers(len(pieces))] + whole[place + length :])
        if RUN in {run["name"] for run in client.get("/runs/api/runs").json()["runs"]}:
            assert client.get("/runs/api/series", params={"run": RUN, "smooth": 3}).status_code == 200
            assert client.get("/runs/api/details", params={"run": RUN}).status_code == 200


def test_foreign_files_and_deleted_runs_disappear(folder):
    folder.log("not a log", run="notes")
    (folder.store.log_folder / "readme.txt").write_text("hello")
    (folder.store.log_folder / "folder.jsonl").mkdir()
    path = folder.log(start(), step(1))
    folder.store.refresh()
    assert list(folder.store.summaries()) == [RUN]
    path.unlink()
    folder.store.refresh()
    assert folder.store.summaries() == {}
    assert folder.store.log(RUN) is None


def test_the_pause_before_resuming_is_not_training_time(folder):
    folder.log(step(1) | {"time": 100.0}, step(2) | {"time": 110.0})
    folder.log({"event": "resume", "step": 2, "time": 5000.0}, step(3) | {"time": 5004.0})
    assert curve(folder.series().training, axis="time")[0] == [0.0, 10.0, 14.0]


def test_skips_rollbacks_and_samples_are_found(folder):
    prompts = ["The capital", "The capital of France"]
    folder.log(start(sample_prompts=prompts), step(1))
    folder.log({"event": "skipped_step", "step": 2, "time": NOW, "reason": "the loss is nan"})
    folder.log({"event": "rollback", "step": 1, "from_step": 2, "time": NOW, "reason": "the loss is nan"})
    folder.log({"event": "sample", "step": 2, "time": NOW, "text": "The capital of France is"})
    folder.log({"event": "samples", "step": 3, "time": NOW, "text": "  Who?\n    → You.\n  Why?\n    → (no text)"})
    log = folder.series()
    assert [(mark["event"], mark["step"], mark["tokens"]) for mark in log.marks] == [
        ("skipped_step", 2, 10),
        ("rollback", 1, 10),
    ]
    assert log.shown_samples() == {
        "The capital of France": [(2, "The capital of France is")],
        "Who?": [(3, "You.")],
        "Why?": [(3, "(no text)")],
    }
    assert (folder.summary()["skipped"], folder.summary()["rollbacks"]) == (1, 1)


# ---- what is drawn


def test_thinning_out_keeps_the_spikes_of_a_million_steps():
    values = np.sin(np.arange(1_000_000) / 1e5)
    values[123_457], values[765_431] = 50.0, -50.0
    kept = lowest_and_highest(values, 1000)
    assert len(kept) <= 1000
    assert {0, 123_457, 765_431, 999_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 1999, 2500])
def test_thinning_out_fits_any_length(count):
    kept = lowest_and_highest(np.arange(count, dtype=float), 1000)
    assert len(kept) <= 1000
    assert len(kept) == count or count > 1000
    assert not count or (kept[0], kept[-1]) == (0, count - 1)


def test_smoothing_is_the_mean_of_the_neighbours():
    assert moving_mean(np.array([1.0, 2.0, 6.0, 3.0]), 3).tolist() == [1.5, 3.0, pytest.approx(11 / 3), 4.5]


def test_a_metric_that_appears_late_has_no_early_points(folder):
    folder.log(step(1), step(2, mfu=0.4), step(3))
    assert curve(folder.series().training, "mfu") == ([2], [0.4])


# ---- the list


def test_the_state_of_a_run(folder):
    folder.checkpoint()
    folder.log(start(), begin(), step(1))
    with only_training_run(folder.paths.checkpoint_dir / RUN):
        assert folder.summary()["state"] == "stalled", "the log is old, but a process holds the folder"
        folder.log(step(50) | {"time": NOW})
        assert folder.summary()["state"] == "training"
    assert folder.summary()["state"] == "interrupted"
    folder.log(end(50, "interrupted"))
    assert folder.summary()["state"] == "interrupted"
    folder.log({"event": "resume", "step": 50, "time": NOW}, begin(), end(100))
    assert folder.summary()["state"] == "finished"


def test_early_stopping_tells_why(folder):
    folder.log(start(), begin(), step(60), end(60, "no improvement for 10 validations"))
    summary = folder.summary()
    assert (summary["state"], summary["detail"]) == ("finished", "no improvement for 10 validations")


def test_logs_without_an_end_are_finished_when_the_rate_is_at_its_lowest(folder):
    folder.log(start(min_learning_rate=0.1, max_steps=None), step(1, train_learning_rate=0.5))
    assert folder.summary()["state"] == "interrupted"
    folder.log(step(2, train_learning_rate=0.1))
    assert folder.summary()["state"] == "finished"


def test_time_left_follows_recent_steps(folder):
    folder.checkpoint()
    lines = [step(number) | {"time": NOW - 100 + 2.0 * number} for number in range(1, 41)]
    folder.log(start(), begin(100), *lines)
    with only_training_run(folder.paths.checkpoint_dir / RUN):
        assert folder.summary()["seconds_left"] == pytest.approx(60 * 2.0)


def test_two_runs_of_a_minute_keep_their_checkpoints_apart(folder):
    folder.checkpoint("best", run=RUN)
    folder.checkpoint("step_5", run=f"{RUN}_2")
    folder.log(step(1), run=f"{RUN}_first")
    folder.log(step(1), run=f"{RUN}_2_second")
    folder.store.refresh()
    names = {run: [file.name for file in folder.store.checkpoints(run)] for run in folder.store.summaries()}
    assert names == {f"{RUN}_first": ["checkpoint_best.pt"], f"{RUN}_2_second": ["checkpoint_step_5.pt"]}


def test_a_folder_without_a_log_is_listed(folder):
    folder.checkpoint("best", run="imported")
    folder.checkpoint(run="sft_lima_2026_01_31_12_00")
    folder.store.refresh()
    found = {name: (facts["state"], facts["kind"]) for name, facts in folder.store.summaries().items()}
    assert found == {"imported": ("no log", "pretraining"), "sft_lima_2026_01_31_12_00": ("no log", "fine-tuning")}


def test_the_best_validation_is_found_in_any_log(folder):
    folder.log(start(), *({"step": number, "time": NOW, "val_loss": abs(number - 30) / 10} for number in range(100)))
    summary = folder.summary()
    assert (summary["best_loss"], summary["best_step"], summary["val_loss"]) == (0.0, 30, 6.9)


def test_looking_again_reads_only_logs_that_changed(folder, monkeypatch):
    for number in range(300):
        folder.log(start(), begin(), step(1), end(1), run=f"run_{number:03}")
    folder.store.refresh()
    read = []
    monkeypatch.setattr("pipeline.runs.run_summary.RunSummary.refresh", lambda self: read.append(self.path.stem))
    folder.log(step(2), run="run_007")
    folder.store.refresh()
    assert read == ["run_007"]
    assert len(folder.store.summaries()) == 300


# ---- over HTTP


def test_series_have_at_most_the_wanted_points(client, folder):
    folder.log(start(), *(step(number, math.inf if number == 7 else float(number)) for number in range(1, 3001)))
    query = {"run": RUN, "points": 100, "smooth": 10, "x": "tokens", "from": 5000, "to": 20_000}
    content = client.get("/runs/api/series", params=query).json()
    loss = content["training"]["train_loss"]
    assert content["rows"] == 3000
    assert 50 < len(loss["x"]) <= 100
    assert (min(loss["x"]), max(loss["x"])) == (5000, 20_000)
    assert len(loss["smooth"]["y"]) <= 100


def test_configurations_show_only_what_differs(client, folder):
    folder.log(start(learning_rate=0.1, seed=1))
    folder.log(start(learning_rate=0.2, seed=1), run="run_b")
    config = client.get("/runs/api/details", params={"run": [RUN, "run_b"]}).json()["config"]
    assert config["columns"] == [RUN, "run_b"]
    assert config["rows"] == [{"key": "training.learning_rate", "values": ["0.1", "0.2"]}]
    alone = client.get("/runs/api/details", params={"run": RUN}).json()["config"]
    assert alone["rows"][0] == {"key": "training.max_steps", "values": ["null", "100"]}


def test_checkpoints_have_their_scores(client, folder):
    path = folder.checkpoint("best")
    folder.log(start(), step(1), run=f"{RUN}_named")
    figure = {"value": 0.25, "interval": [0.21, 0.29], "higher_is_better": True, "unit": "share"}
    folder.results(
        mine={"checkpoint": str(path), "step": 40, "figures": {"lambada": {"acc": figure, "acc_corrected": figure}}},
        other={"checkpoint": "/elsewhere/run_x/checkpoint_best.pt", "step": 1, "figures": {}},
        broken={"figures": [1]},
    )
    (folder.paths.benchmark_dir / "benchmark_2.json").write_text("{")
    (run,) = client.get("/runs/api/details", params={"run": f"{RUN}_named"}).json()["runs"]
    assert [file["name"] for file in run["checkpoints"]] == ["checkpoint_best.pt"]
    (score,) = run["scores"]
    assert (score["file"], score["step"]) == ("checkpoint_best.pt", 40)
    (found,) = score["figures"]
    assert [found[key] for key in ("task", "name", "value", "mark", "interval")] == [
        *("lambada", "acc", 0.25, "sample", [0.21, 0.29])
    ]


def test_only_the_chat_server_links_to_the_chat(client, folder):
    assert client.get("/runs/api/runs").json()["chat"] is False
    config = replace(Config(), paths=folder.paths)
    beside = TestClient(Starlette(routes=runs_page(config, has_chat=True).routes))
    assert beside.get("/runs/api/runs").json()["chat"] is True


def test_answered_questions_are_scores_of_their_checkpoint(client, folder):
    path = folder.checkpoint("step_40")
    folder.log(start(), step(1), run=RUN)
    counts = {"known": {"right": 9, "total": 10}, "unknown": {"right": 0, "total": 0}}
    models = {"tuned": {"checkpoint": str(path), "step": 40, **counts}, "older": counts, "broken": 3}
    folder.paths.benchmark_dir.mkdir(exist_ok=True)
    (folder.paths.benchmark_dir / "questions_1.json").write_text(json.dumps(models))
    (run,) = client.get("/runs/api/details", params={"run": RUN}).json()["runs"]
    (score,) = run["scores"]
    assert (score["file"], score["step"]) == ("checkpoint_step_40.pt", 40)
    assert [(found["name"], found["value"]) for found in score["figures"]] == [("right", 0.9)]


def test_unknown_runs_and_bad_numbers_are_refused_in_words(client, folder):
    assert client.get("/runs/api/series", params={"run": "../../etc/passwd"}).status_code == 404
    folder.log(start())
    for query in ({"x": "epoch"}, {"points": "many"}, {"from": "nan"}):
        answer = client.get("/runs/api/series", params={"run": RUN, **query})
        assert answer.status_code == 400
        assert "expected" in answer.json()["error"]["message"]


def test_the_page_loads_nothing_from_elsewhere(client):
    assert client.get("/").url.path == "/runs"
    page = client.get("/runs")
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    names = [name for name in page.text.split('"') if name.startswith("runs/static/")]
    assert len(names) >= 4
    for name in names:
        assert client.get(f"/{name}").status_code == 200
    assert client.get("/runs", headers={"Host": "evil.example"}).status_code == 403


def test_a_key_protects_the_data_but_not_the_page(folder):
    app, _ = create_app(replace(Config(), paths=folder.paths), api_key="secret")
    client = TestClient(app, base_url="http://localhost")
    assert client.get("/runs").status_code == client.get("/runs/static/main.js").status_code == 200
    assert client.get("/runs/api/runs").status_code == 401
    assert client.get("/runs/api/runs", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_events_tell_what_changed_until_the_server_stops(folder, monkeypatch):
    monkeypatch.setattr(routes_module, "SECONDS_BETWEEN_LOOKS", 0.0)
    routes = RunsRoutes(replace(Config(), paths=folder.paths))
    path = folder.log(start(), step(1))

    async def read() -> list[str]:
        changes = routes.changes()
        received = [await anext(changes), await anext(changes)]
        path.unlink()
        received.append(await anext(changes))
        routes.stop()
        return [*received, *[text async for text in changes]]

    _, appeared, disappeared = (text.partition("data: ")[2] for text in asyncio.run(read()))
    assert [run["name"] for run in json.loads(appeared)["changed"]] == [RUN]
    assert json.loads(disappeared)["gone"] == [RUN]


# ---- the command


def test_a_port_in_use_is_one_clear_line(folder):
    from pipeline.web.listening import listen

    listener = listen("127.0.0.1", 0)
    listener.listen()
    with listener, pytest.raises(PipelineError, match="choose a different address with --host or --port"):
        listen("127.0.0.1", listener.getsockname()[1])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_page_without_a_traceback(tmp_path):
    command = [sys.executable, "runs.py", "--port", "0", "--set", f"paths.log_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "runs page: http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "interrupted")
