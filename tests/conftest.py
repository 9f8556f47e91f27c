"""Shared fixtures: the real records, a folder to train in, servers, preparation jobs."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.preparation_jobs import articles, make_job, tokenizer_class

__all__ = ["articles", "make_job", "tokenizer_class"]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records in LLM_REAL_DATA; the test is skipped if it is not set."""
    folder = os.environ.get("LLM_REAL_DATA")
    if not folder:
        pytest.skip("LLM_REAL_DATA is not set; expected a folder with real records")
    assert Path(folder).is_dir(), f"LLM_REAL_DATA is {folder}, which is not a folder"
    return Path(folder)


@pytest.fixture
def project(plotting_project, monkeypatch) -> Path:
    """A folder to train in: a token dataset and its configuration. Runs in this process plot no curves, which would
    take most of their time."""
    monkeypatch.setattr("pipeline.training.curves.draw_runs", lambda path, runs: None)
    return plotting_project


@pytest.fixture
def plotting_project(tmp_path) -> Path:
    """Like `project`, but runs plot their curves."""
    from tests.training_runs import write_config, write_tokens

    write_tokens(tmp_path / "data")
    write_config(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server():
    """A server with the default limits, shared by the tests in a file."""
    from pipeline.serving.config import ServerConfig
    from tests.running_server import RunningServer

    running = RunningServer(ServerConfig())
    yield running
    running.close()


@pytest.fixture
def make_server():
    """Start servers with other limits, or with an `api_key`."""
    from pipeline.serving.config import ServerConfig
    from tests.running_server import RunningServer

    servers = []

    def make(*, api_key: str | None = None, **options):
        servers.append(RunningServer(replace(ServerConfig(), **options), api_key=api_key))
        return servers[-1]

    yield make
    for running in servers:
        running.close()
