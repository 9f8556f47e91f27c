"""Training uses the window that the dataset was prepared with, unless the user sets another."""

import json

import numpy as np
import pytest

from pipeline.configuration import load_config
from pipeline.dataloading.window_size import with_prepared_window
from tests.training_runs import WINDOW, content_of, run_train, write_config, write_tokens
from utils.errors import PipelineError


@pytest.fixture
def overlay(tmp_path):
    """A config file that names no window, next to a dataset with windows of 16 that overlap by half."""
    path = write_config(tmp_path)
    content = json.loads(path.read_text())
    del content["dataset"]["window"]
    path.write_text(json.dumps(content))
    write_tokens(tmp_path / "data")
    return path


def window_of(overlay, *settings, flags=None):
    config = with_prepared_window(load_config(overlay, settings=settings, flags=flags), test=False)
    return config.dataset.window, config.dataset.stride


def prepared(overlay, **keys):
    path = overlay.parent / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_the_prepared_window_wins_over_the_default(overlay):
    assert window_of(overlay) == (WINDOW, WINDOW // 2)
    prepared(overlay, window=10, stride=9, config={"overlap": 0.1})
    config = with_prepared_window(load_config(overlay), test=False).dataset
    assert (config.window, config.overlap) == (10, 0.1)


def test_a_window_that_the_user_sets_wins(overlay):
    model = "model.max_position_embeddings=512"
    assert window_of(overlay, "dataset.window=8") == (8, 4)
    assert window_of(overlay, flags={"dataset.overlap": 0.25}) == (WINDOW, 12)
    assert window_of(overlay, "dataset.window=512", model) == (512, 256)
    content = json.loads(overlay.read_text())
    content["dataset"] |= {"window": 12, "overlap": 0.5}
    overlay.write_text(json.dumps(content))
    assert window_of(overlay) == (12, 6)


def test_the_context_must_hold_the_prepared_window(overlay):
    prepared(overlay, window=64, stride=32)
    with pytest.raises(PipelineError, match=r"max_position_embeddings 16 is below dataset\.window 64; for a new model"):
        window_of(overlay)
    assert window_of(overlay, "model.max_position_embeddings=64") == (64, 32)


def test_rows_of_another_tool_have_their_own_window(overlay):
    rows = np.load(overlay.parent / "data" / "tokens_0.npy")[: 100 * 12].reshape(100, 12)
    np.save(overlay.parent / "data" / "tokens_0.npy", rows)
    (overlay.parent / "data" / "metadata.json").write_text('{"window": 512, "stride": 1}')
    assert window_of(overlay)[0] == 12
    with pytest.raises(PipelineError, match=r"rows of 12 tokens, so dataset\.window cannot be 8"):
        window_of(overlay, "dataset.window=8")


def test_training_uses_the_prepared_window_and_resumes_with_it(overlay):
    prepared(overlay, window=12, stride=6)
    run = run_train(overlay.parent, "--set", "training.max_steps=2")
    stored = content_of(run)["config"]
    assert (stored["dataset"]["window"], stored["model"]["max_position_embeddings"]) == (12, 12)
    prepared(overlay, window=16, stride=8)
    run_train(overlay.parent, "--resume", str(run), "--set", "training.max_steps=3")
    assert content_of(run)["config"]["dataset"]["window"] == 12
