"""The runs page's rules at their limits: states, points of a curve, differences, scores, numbers in requests."""

import asyncio
import json
import math
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.configuration import Config, PathsConfig
from pipeline.runs import routes, run_log
from pipeline.runs.differences import differences, from_defaults
from pipeline.runs.log_tail import LogTail, parse_line
from pipeline.runs.number_table import NumberTable, moving_mean
from pipeline.runs.routes import _number, create_app
from pipeline.runs.run_log import RunLog
from pipeline.runs.run_store import RunStore
from pipeline.runs.run_summary import RunSummary, shown_summary
from pipeline.runs.scores import Scores
from pipeline.web.errors import ApiError

NOW = 10_000.0


def summary_of(tmp_path: Path, *lines: dict) -> RunSummary:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = RunSummary(path)
    summary.refresh()
    return summary


def row(step: int, time: float, **values: object) -> dict:
    return {"step": step, "time": time, "train_loss": 1.0, **values}


START = {"event": "start", "step": 0, "time": 0.0, "config": {"training": {"max_steps": 50}}}
BEGIN = {"event": "training", "step": 0, "time": 0.0, "total_steps": 60, "device": "cuda:0"}


@pytest.mark.parametrize(
    ("idle", "gap", "state"),
    [(600, 1, "training"), (601, 1, "stalled"), (2000, 100, "training"), (2001, 100, "stalled")],
)
def test_a_silent_run_is_stalled_after_ten_minutes_or_twenty_rows(tmp_path, idle, gap, state):
    rows = [row(number, NOW - (3 - number) * gap) for number in range(1, 4)]
    summary = summary_of(tmp_path, START, BEGIN, *rows)
    assert summary.state(locked=True, now=NOW + idle) == (state, "")


@pytest.mark.parametrize(
    ("lines", "locked", "idle", "state"),
    [
        ([START, row(1, NOW)], False, 119, "training"),  # still setting up
        ([START, row(1, NOW)], False, 120, "interrupted"),
        ([START, BEGIN, row(1, NOW)], False, 1, "interrupted"),
        ([START, BEGIN, row(1, NOW)], None, 119, "training"),
        ([START, BEGIN, row(59, NOW)], False, 1, "interrupted"),
        ([START, BEGIN, row(60, NOW)], False, 1, "finished"),
        ([START, row(50, NOW)], False, 500, "finished"),
    ],
)
def test_an_unlocked_run_without_an_end(tmp_path, lines, locked, idle, state):
    assert summary_of(tmp_path, *lines).state(locked=locked, now=NOW + idle)[0] == state


def test_a_summary_has_the_newest_facts(tmp_path):
    lines = [
        START, BEGIN, row(1, 10.0, train_tokens=100, tokens_per_second=7.0),
        {"event": "skipped_step", "step": 2, "time": 11.0}, {"event": "skipped_step", "step": 2, "time": 11.0},
        {"event": "rollback", "step": 1, "time": 12.0}, row(2, 20.0), row(4, 26.0, train_loss_smoothed=0.5),
        {"step": 4, "time": 27.0, "val_loss": 0.75, "train_tokens": 400}, {"step": 6, "time": 28.0, "val_loss": 0.8},
    ]  # fmt: skip
    facts = shown_summary(summary_of(tmp_path, *lines), locked=True, now=30.0)
    expected = {"started": 0.0, "updated": 28.0, "step": 6, "total_steps": 60, "device": "cuda:0", "skipped": 2}
    expected |= {"rollbacks": 1, "loss": 0.5, "tokens": 400, "val_loss": 0.8, "best_loss": 0.75, "best_step": 4}
    assert expected.items() <= facts.items()
    assert facts["seconds_left"] == pytest.approx((60 - 6) * 3.0)  # of the rows since the rollback
    assert shown_summary(summary_of(tmp_path, *lines), locked=False, now=30.0)["seconds_left"] is None


def test_time_left_needs_two_rows_that_advance(tmp_path):
    assert summary_of(tmp_path, START, BEGIN, row(1, 5.0)).seconds_left() is None
    assert summary_of(tmp_path, START, BEGIN, row(1, 5.0), row(1, 6.0)).seconds_left() is None
    assert summary_of(tmp_path, START, BEGIN, row(1, 5.0), row(2, 4.0)).seconds_left() is None
    assert summary_of(tmp_path, START, BEGIN, row(1, 5.0), row(2, 5.0)).seconds_left() == 0.0
    assert summary_of(tmp_path, START, BEGIN, row(60, 5.0), row(62, 7.0)).seconds_left() == 0.0


def table(*rows: tuple[float, float]) -> NumberTable:
    numbers = NumberTable()
    for step, value in rows:
        numbers.add({"step": step, "tokens": 10 * step, "time": 100 * step}, {"loss": value})
    return numbers


def test_points_include_both_ends_of_the_span():
    numbers = table((1, 1.0), (2, 4.0), (3, 1.0), (4, 2.0))
    x, y = numbers.points("loss", axis="tokens", most=10, low=20, high=40)
    assert (x.tolist(), y.tolist()) == ([20, 30, 40], [4.0, 1.0, 2.0])
    assert numbers.points("loss", axis="step", most=10, smooth=2)[1].tolist() == [2.5, 2.5, 1.5, 2.0]
    assert numbers.points("loss", axis="step", most=10, smooth=1)[1].tolist() == [1.0, 4.0, 1.0, 2.0]
    assert numbers.points("other", axis="step", most=10)[0].tolist() == []
    assert numbers.last("loss") == 2.0
    assert numbers.last("other") is None


def test_a_repeated_step_replaces_the_rows_from_it_on():
    numbers = table((1, 1.0), (2, 4.0), (3, 5.0), (2, 6.0))
    assert numbers.axes["step"] == array("d", [1, 2])
    assert numbers.columns["loss"] == array("d", [1.0, 6.0])
    numbers.add({"step": 3, "tokens": 1, "time": 1}, {"mfu": math.inf})
    assert numbers.last("mfu") is None
    assert len(numbers) == 3


@pytest.mark.parametrize(
    ("window", "expected"), [(1, [1, 2, 6, 3, 8]), (2, [1.5, 4, 4.5, 5.5, 8]), (4, [3, 3, 4.75, 5.75 - 0.0833333, 5.5])]
)
def test_smoothing_takes_the_values_around(window, expected):
    assert moving_mean(np.array([1.0, 2.0, 6.0, 3.0, 8.0]), window).tolist() == pytest.approx(expected)


def test_configurations_are_compared_as_text():
    one = {"model": {"norm": "rms", "bias": True, "size": 8}, "training": {"rate": 1e-3, "prompts": [], "max": None}}
    other = {"model": {"norm": "rms", "bias": False, "size": 9}, "training": {"rate": 2e-3, "prompts": ["a", "b"]}}
    assert differences([one, {}, other]) == [
        {"key": "model.bias", "values": ["true", "–", "false"]},
        {"key": "model.size", "values": ["8", "–", "9"]},
        {"key": "training.rate", "values": ["0.001", "–", "0.002"]},
        {"key": "training.prompts", "values": ["none", "–", "a, b"]},
        {"key": "training.max", "values": ["null", "–", "–"]},
    ]
    assert differences([one, one]) == []


@pytest.mark.parametrize(("is_tuning", "keys"), [(True, ["model.size", "sft.rate"]), (False, ["model.size"])])
def test_a_single_run_shows_what_it_changed(is_tuning, keys):
    config = {
        "model": {"size": 9, "norm": "rms"},
        "dataset": {"custom_dir": "x"},
        "sft": {"rate": 2},
        "server": {"a": 1},
    }
    defaults = {"model": {"size": 8, "norm": "rms"}, "sft": {"rate": 1}}
    rows = from_defaults(config, defaults, is_tuning=is_tuning)
    assert [found["key"] for found in rows] == keys
    assert rows[0]["values"] == ["8", "9"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"step": 0}', {"step": 0}),
        (b'{"step": -1}', None),
        (b'{"step": true}', None),
        (b'{"step": 1, "a": NaN, "b": -Infinity, "c": 1e999}', {"step": 1, "a": None, "b": None, "c": None}),
        (b'{"step": 1, "a": NaN, "b": 123456789012345678}', {"step": 1, "a": None, "b": 123456789012345678}),
        (b"[1]", None),
        (b'{"step": 1', None),
    ],
)
def test_a_line_of_a_log_has_a_step(line, expected):
    assert parse_line(line) == expected


def test_time_in_a_log_leaves_out_pauses_and_clocks_set_back(tmp_path):
    path = tmp_path / "log.jsonl"
    times = [
        (1, 100.0, {}),
        (2, 110.0, {}),
        (2, 500.0, {"event": "resume"}),
        (3, 505.0, {}),
        (4, 400.0, {}),
        (5, 401.0, {}),
    ]
    lines = [
        {"step": step, "time": time, **({} if "event" in more else {"train_loss": 1.0}), **more}
        for step, time, more in times
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = RunLog(path)
    log.refresh()
    assert log.training.axes["time"].tolist() == [0.0, 10.0, 15.0, 15.0, 16.0]
    assert log.shown_marks() == [{"event": "resume", "step": 2.0, "tokens": 0.0, "time": 10.0}]


def test_samples_are_thinned_out_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "MAX_SAMPLES", 3)
    path = tmp_path / "log.jsonl"
    start = {"event": "start", "step": 0, "config": {"training": {"sample_prompts": ["Once", "Once upon", 3]}}}
    samples = [{"event": "sample", "step": step, "text": f"Once upon {step}"} for step in (1, 2, 3, 4, 5, 5)]
    answers = {"event": "samples", "step": 5, "text": "  Why?\n    → Because.\n  Who?\n    → Me."}
    path.write_text("".join(json.dumps(line) + "\n" for line in [start, *samples, answers]))
    log = RunLog(path)
    log.refresh()
    shown = log.shown_samples()
    assert [step for step, _ in shown["Once upon"]] == [1, 3, 5]
    assert shown["Why?"] == [(5, "Because.")]
    assert shown["Who?"] == [(5, "Me.")]


@pytest.mark.parametrize(
    ("count", "value"),
    [({"right": 0, "total": 4}, 0.0), ({"right": 4, "total": 4}, 1.0), ({"right": 5, "total": 4}, None),
     ({"right": -1, "total": 4}, None), ({"right": 0, "total": 0}, None), ({"right": "1", "total": 4}, None)],
)  # fmt: skip
def test_answered_questions_are_a_share(tmp_path, count, value):
    model = {"checkpoint": "checkpoints/run_a/checkpoint_best.pt", "step": 7, "known": count}
    (tmp_path / "questions_1.json").write_text(json.dumps({"model": model}))
    (score,) = Scores(tmp_path).of("run_a", "checkpoint_best.pt")
    assert score["step"] == 7
    assert [figure["value"] for figure in score["figures"]] == ([] if value is None else [value])
    assert Scores(tmp_path).of("run_a", "checkpoint_latest.pt") == []


def test_scores_name_the_newest_first_and_hide_variants(tmp_path):
    figures = {
        "accuracy": {"value": 0.5, "stderr": 0.25, "interval": [0.1, 0.9], "higher_is_better": True, "unit": "share"}
    }
    hidden = {"accuracy_corrected": {"value": 0.5}, "loss": {"value": None}}
    for number, created in ((1, "2026-01-01"), (2, "2026-01-02")):
        models = {"run_a/best": {"step": number, "figures": {"lambada": figures | hidden}}}
        content = {"created": created, "sets": {"lambada": {"mark": "sample"}}, "models": models}
        (tmp_path / f"benchmark_{number}.json").write_text(json.dumps(content))
    newest, oldest = Scores(tmp_path).of("run_a")
    assert (newest["step"], oldest["step"], newest["file"]) == (2, 1, "checkpoint_best.pt")
    (figure,) = newest["figures"]
    expected = {"task": "lambada", "name": "accuracy", "value": 0.5, "interval": [0.1, 0.9], "higher_is_better": True}
    assert figure == expected | {"unit": "share", "mark": "sample"}


@pytest.mark.parametrize(("text", "value"), [("5", 5.0), ("1", 2.0), ("2", 2.0), ("99", 9.0), ("1e999", 9.0)])
def test_numbers_in_a_request_are_moved_into_their_bounds(text, value):
    assert _number({"points": text}, "points", 3, 2, 9) == value
    assert _number({}, "points", 3, 2, 9) == 3


@pytest.mark.parametrize("text", ["", "many", "nan"])
def test_other_texts_are_refused_by_name(text):
    with pytest.raises(ApiError) as error:
        _number({"points": text}, "points", 3, 2, 9)
    assert (error.value.status, error.value.param) == (400, "points")


def test_a_span_chooses_rows_and_marks(tmp_path):
    paths = PathsConfig(log_dir=tmp_path / "logs", checkpoint_dir=tmp_path / "c", benchmark_dir=tmp_path / "b")
    folder = tmp_path / "logs" / "raw_metrics"
    folder.mkdir(parents=True)
    marks = [{"event": "skipped_step", "step": step, "time": float(step), "reason": "nan"} for step in (2, 5)]
    lines = [*(row(step, float(step), train_tokens=step) for step in (1, 2)), marks[0], row(4, 4.0), marks[1]]
    (folder / "run_a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    app, _ = create_app(replace(Config(), paths=paths))
    client = TestClient(app, base_url="http://localhost")
    answer = client.get("/runs/api/series?run=run_a&from=2&to=4&smooth=2").json()
    assert answer["rows"] == 3
    assert [(mark["event"], mark["x"], mark["reason"]) for mark in answer["marks"]] == [("skipped_step", 2, "nan")]
    assert answer["training"]["train_loss"]["x"] == [2, 4]
    assert answer["training"]["train_loss"]["smooth"]["y"] == [1.0, 1.0]
    assert "smooth" not in client.get("/runs/api/series?run=run_a").json()["training"]["train_loss"]


@pytest.mark.parametrize(("run", "keys"), [("sft_a", ["sft.num_epochs"]), ("run_a", [])])
def test_tuning_settings_are_shown_for_tuned_runs_only(tmp_path, run, keys):
    paths = PathsConfig(log_dir=tmp_path / "logs", checkpoint_dir=tmp_path / "c", benchmark_dir=tmp_path / "b")
    folder = tmp_path / "logs" / "raw_metrics"
    folder.mkdir(parents=True)
    start = {"event": "start", "step": 0, "time": 1.0, "config": {"sft": {"num_epochs": 99}}}
    (folder / f"{run}.jsonl").write_text(json.dumps(start) + "\n")
    app, _ = create_app(replace(Config(), paths=paths))
    answer = TestClient(app, base_url="http://localhost").get(f"/runs/api/details?run={run}").json()
    assert [row["key"] for row in answer["config"]["rows"]] == keys
    assert answer["config"]["columns"] == ["default", run]


def test_only_the_newest_logs_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.run_store.MAX_OPEN_LOGS", 2)
    store = RunStore(PathsConfig(log_dir=tmp_path, checkpoint_dir=tmp_path / "c", benchmark_dir=tmp_path / "b"))
    store.log_folder.mkdir()
    for name in "abc":
        (store.log_folder / f"{name}.jsonl").write_text(json.dumps(START) + "\n")
    store.refresh()
    first = store.log("a")
    store.log("b")
    assert store.log("a") is first
    store.log("c")
    assert store.log("a") is first
    assert list(store._logs) == ["c", "a"]


def test_an_unchanged_log_is_not_read_again(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("one\ntwo\nthr")
    restarts: list[None] = []
    tail = LogTail(path)
    assert [line for line in tail.read(lambda: restarts.append(None)) if line] == [b"one", b"two"]
    for appended, expected in (("", []), ("ee\n", [b"three"]), ("", [])):
        with path.open("a") as file:
            file.write(appended)
        assert [line for line in tail.read(lambda: restarts.append(None)) if line] == expected
    assert not restarts
    path.write_text("one\ntwo\n")
    assert [line for line in tail.read(lambda: restarts.append(None)) if line] == [b"one", b"two"]
    path.write_text("ONE\ntwo\n")
    assert [line for line in tail.read(lambda: restarts.append(None)) if line] == [b"ONE", b"two"]
    assert len(restarts) == 2


def test_events_repeat_only_changed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(routes, "SECONDS_BETWEEN_LOOKS", 0.0)
    paths = PathsConfig(log_dir=tmp_path / "logs", checkpoint_dir=tmp_path / "c", benchmark_dir=tmp_path / "b")
    folder = tmp_path / "logs" / "raw_metrics"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / f"{name}.jsonl").write_text(json.dumps(START | {"time": 1.0}) + "\n")
    page = routes.RunsRoutes(replace(Config(), paths=paths))

    async def read() -> list[str]:
        changes = page.changes()
        received = [await anext(changes), await anext(changes)]
        with (folder / "b.jsonl").open("a") as file:
            file.write(json.dumps(row(1, 5.0)) + "\n")
        return [*received, await anext(changes)]

    retry, first, second = asyncio.run(read())
    assert retry == "retry: 2000\n\n"
    changed = [json.loads(text.partition("data: ")[2])["changed"] for text in (first, second)]
    assert [sorted(run["name"] for run in runs) for runs in changed] == [["a", "b"], ["b"]]


def test_a_quiet_stream_shows_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(routes, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(routes, "SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.02)
    paths = PathsConfig(log_dir=tmp_path, checkpoint_dir=tmp_path / "c", benchmark_dir=tmp_path / "b")
    page = routes.RunsRoutes(replace(Config(), paths=paths))

    async def read() -> list[str]:
        changes = page.changes()
        return [await anext(changes) for _ in range(3)]

    assert asyncio.run(read())[1:] == [": still here\n\n"] * 2
