"""What several test files share: where the real records lie, a folder to train in."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real records that the environment variable LLM_REAL_DATA names; without it the test is skipped."""
    folder = os.environ.get("LLM_REAL_DATA")
    if not folder:
        pytest.skip("LLM_REAL_DATA is not set; it names a folder with real records")
    assert Path(folder).is_dir(), f"LLM_REAL_DATA names {folder}, which is no folder"
    return Path(folder)


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder to train in: a token dataset and its configuration."""
    from tests.training_runs import write_config, write_tokens

    write_tokens(tmp_path / "data")
    write_config(tmp_path)
    return tmp_path
