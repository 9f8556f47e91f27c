"""DualLogger: both logs have every number, and a resumed log has each step once."""

import errno
import json

import pytest

from pipeline.training.log_position import LogPosition
from utils import logging_utils
from utils.errors import PipelineError
from utils.logging_utils import DualLogger
from utils.raw_log import read_log
from utils.tensorboard_log import TensorBoardLog


def scalars(folder, name="train/loss"):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_every_number_is_in_both_places(tmp_path):
    logger = DualLogger(tmp_path, "run_a", hyperparameters={"training": {"seed": 1}})
    for step in (1, 2):
        logger.log(step=step, train_loss=step / 2)
    logger.event("sample", step=2, text="größer")
    logger.close()
    lines = [json.loads(line) for line in logger.path.read_text(encoding="utf-8").splitlines()]
    assert [line.get("event", "numbers") for line in lines] == ["start", "numbers", "numbers", "sample"]
    assert lines[0]["config"] == {"training": {"seed": 1}}
    assert (lines[2]["step"], lines[2]["train_loss"], lines[3]["text"]) == (2, 1.0, "größer")
    assert scalars(tmp_path / "tensorboard" / "run_a") == [(1, 0.5), (2, 1.0)]


def test_lines_are_buffered_until_a_flush(tmp_path):
    logger = DualLogger(tmp_path, "run_a", buffer_lines=3)
    logger.log(step=1, train_loss=1.0)
    logger.log(step=2, train_loss=1.0)
    assert not logger.path.exists()
    logger.log(step=3, train_loss=1.0)
    assert len(read_log(logger.path)) == 3
    logger.log(step=4, train_loss=1.0)
    logger.flush()
    assert len(read_log(logger.path)) == 4


def test_a_run_can_be_followed_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.logging_utils.SECONDS_BETWEEN_WRITES", 0.0)
    logger = DualLogger(tmp_path, "run_a")
    logger.log(step=1, train_loss=1.0)
    assert [line["step"] for line in read_log(logger.path)] == [1]


def test_resumed_log_drops_lines_past_the_checkpoint(tmp_path):
    first = DualLogger(tmp_path, "run_a")
    for step in range(1, 6):
        first.log(step=step, train_loss=float(step))
    first.close()
    with first.path.open("a") as file:
        file.write('{"step": 6, "train_lo')  # the machine went down in the middle of a line
    second = DualLogger(tmp_path, "run_a", resume=LogPosition(3))
    for step in range(4, 6):
        second.log(step=step, train_loss=step * 10.0)
    second.close()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0)]
    assert [(line["step"], line["train_loss"]) for line in read_log(first.path)] == expected
    assert scalars(tmp_path / "tensorboard" / "run_a") == expected


def test_events_survive_dropped_numbers(tmp_path):
    logger = DualLogger(tmp_path, "run_a")
    logger.log(step=1, train_loss=1.0)
    logger.log(step=2, train_loss=1.0)
    logger.event("skipped_step", step=2, reason="nan")
    logger.drop_after(1)
    assert [line["step"] for line in read_log(logger.path)] == [1, 2]
    assert read_log(logger.path)[1]["event"] == "skipped_step"


def test_a_diverged_number_is_still_json(tmp_path):
    logger = DualLogger(tmp_path, "run_a")
    logger.log(step=1, train_loss=float("nan"))
    logger.close()
    assert json.loads(logger.path.read_text(), parse_constant=pytest.fail)["train_loss"] is None


def test_a_process_that_does_not_log_leaves_nothing(tmp_path):
    logger = DualLogger(tmp_path, "run_a", enabled=False)
    logger.log(step=1, train_loss=1.0)
    logger.event("sample", step=1, text="a")
    logger.drop_after(0)
    logger.close()
    assert not list(tmp_path.iterdir())


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"run_b.jsonl does not exist"):
        read_log(tmp_path / "run_b.jsonl")


def test_invalid_log_lines_are_skipped(tmp_path):
    path = tmp_path / "run_a.jsonl"
    whole = ['{"event": "sample", "step": 1, "text": "a\u2028b"}', '{"step": 2, "text": "\\ud800"}']
    odd = ["123", "[1]", '{"loss": 2}', '{"step": "x"}', ""]
    path.write_bytes("\n".join([*odd, *whole, ""]).encode() + '{"step": 3, "text": "ü'.encode()[:-1])
    lines = read_log(path)
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["text"] == "a\u2028b"


def test_a_resumed_log_keeps_line_separators_and_odd_characters(tmp_path):
    first = DualLogger(tmp_path, "run_a")
    first.event("sample", step=1, text="a\u2028b \ud800")
    first.close()
    before = first.path.read_bytes()
    DualLogger(tmp_path, "run_a", resume=LogPosition(1)).close()
    assert first.path.read_bytes() == before


def test_a_validation_to_be_repeated_leaves_the_log(tmp_path):
    first = DualLogger(tmp_path, "run_a")
    first.log(step=1, train_loss=1.0)
    first.log(step=1, val_loss=1.0)
    first.event("sample", step=1, text="a")
    first.close()
    second = DualLogger(tmp_path, "run_a", resume=LogPosition(1, validated=False))
    second.close()
    assert [line.get("train_loss") for line in read_log(first.path)] == [1.0]


def test_full_disk_loses_no_log_line(tmp_path, monkeypatch, capsys):
    logger = DualLogger(tmp_path, "run_a", buffer_lines=1)
    logger.log(step=1, train_loss=1.0)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logging_utils.os, "fsync", full)
        logger.log(step=2, train_loss=1.0)
        logger.log(step=3, train_loss=1.0)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert f"log {logger.path} cannot be written: No space left on device; training continues" in warnings[0]
    assert [line["step"] for line in read_log(logger.path)] == [1]
    resumed = DualLogger(tmp_path, "run_a", resume=LogPosition(3, unwritten=logger.unwritten))
    assert [line["step"] for line in read_log(resumed.path)] == [1, 2, 3]
    logger.close()
    resumed.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_under_tensorboard_is_one_warning(tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(writer, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = TensorBoardLog(tmp_path, first_step=None)
    monkeypatch.setattr(RecordWriter, "write", full)
    for step in range(3):
        log.add(step, {"train_loss": 0.5})
        log.flush()
    log.close()
    said = capfd.readouterr().err
    assert said == f"warning: {tmp_path} cannot be written: No space left on device; training continues\n"


def test_memory_is_in_gigabytes_in_charts_only(tmp_path):
    logger = DualLogger(tmp_path, "run_a")
    logger.log(step=1, speed_memory_bytes=3 * 2**30)
    logger.close()
    assert read_log(logger.path)[0]["speed_memory_bytes"] == 3 * 2**30
    assert scalars(tmp_path / "tensorboard" / "run_a", "speed/memory_gb") == [(1, 3.0)]


def test_all_samples_are_in_one_text_panel(tmp_path):
    logger = DualLogger(tmp_path, "run_a")
    for step, name in ((1, "sample"), (1, "sample"), (2, "samples")):
        logger.event(name, step=step, text="a")
    logger.close()
    assert tags(tmp_path / "tensorboard" / "run_a") == {"samples/text_summary"}


def test_hparams_of_a_run_are_in_its_own_folder(tmp_path):
    first = DualLogger(tmp_path, "run_a", hparams={"training.learning_rate": 0.5, "model.norm": "rms"})
    first.log(step=1, val_loss=2.0)
    first.close()
    DualLogger(tmp_path, "run_a", hparams={"training.learning_rate": 0.5}, resume=LogPosition(1)).close()
    folder = tmp_path / "tensorboard" / "run_a"
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= hparam_tags(folder)
    assert [path.parent for path in (tmp_path / "tensorboard").rglob("events*")] == [folder] * 2


def accumulated(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def tags(folder):
    return set(accumulated(folder).Tags()["tensors"])


def hparam_tags(folder):
    return set(accumulated(folder).summary_metadata)
