"""How the loader cuts text into blocks, parts and validation windows, at the limits of each rule."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.dataloading import split as splitting
from pipeline.dataloading.loaders import LoaderOptions, TrainingLoader, ValidationLoader, _evenly_spread, _fitting_parts
from pipeline.dataloading.split import row_stride, split_windows, stream_length
from pipeline.dataloading.window_size import _overlap
from tests.test_dataloader import CPU, make_dataset, make_loader
from utils.devices import World
from utils.errors import PipelineError


def fake_split(windows: int, runs: int = 100) -> SimpleNamespace:
    return SimpleNamespace(train=[None] * runs, train_size=windows)


@pytest.mark.parametrize(
    ("windows", "runs", "free", "parts"),
    [
        (4 * 32 * 8, 100, 10**9, 4),
        (4 * 32 * 8 - 1, 100, 10**9, 3),  # a part has at least 32 steps
        (10, 100, 10**9, 1),
        (10**6, 2, 10**9, 2),  # a part has at least one run
        (1024, 100, 12_800, 4),  # 2 * 1024 * 10 bytes in 4 parts are exactly 40% of it
        (1024, 100, 12_799, 5),
        (1024, 100, 1_000, 52),
        (1024, 20, 1_000, 20),
    ],
)  # fmt: skip
def test_two_parts_take_two_fifths_of_the_memory(windows, runs, free, parts):
    found = _fitting_parts(fake_split(windows, runs), step_windows=8, min_parts=4, bytes_per_window=10, free_bytes=free)
    assert found == parts


def test_validation_windows_are_spread_evenly():
    assert _evenly_spread(9, None, 16).tolist() == list(range(9))
    assert _evenly_spread(9, 3 * 16, 16).tolist() == [0, 4, 8]
    assert _evenly_spread(9, 3 * 16 - 1, 16).tolist() == [0, 8]
    assert _evenly_spread(9, 1, 16).tolist() == [0]
    assert _evenly_spread(2, 10**6, 16).tolist() == [0, 1]


def test_processes_share_validation_batches(tmp_path):
    dataset = make_dataset(tmp_path / "data", [4_000])
    split = split_windows(dataset, val_split=0.2, seed=1)
    loaders = [ValidationLoader(dataset, split, LoaderOptions(batch_size=4, world=World(rank, 3))) for rank in range(3)]
    batches = [[batch[:, 0].tolist() for batch in loader] for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(found) for found in batches]
    in_order = [batches[number % 3][number // 3] for number in range(sum(map(len, batches)))]
    whole = ValidationLoader(dataset, split, LoaderOptions(batch_size=4, world=World()))
    assert in_order == [batch[:, 0].tolist() for batch in whole]
    assert sum(map(len, in_order)) == whole.num_windows == split.val_size


@pytest.mark.parametrize(("stride", "found"), [(8, 8), (16, 16), (1, 1)])
def test_the_stride_of_rows_is_found_in_them(tmp_path, stride, found):
    dataset = make_dataset(tmp_path / "data", [200], stride=stride, legacy=True)
    assert row_stride(dataset) == found
    assert stream_length(dataset, 0, stride) == (len(dataset.files[0]) - 1) * stride + 16


def test_a_single_row_has_no_overlap(tmp_path):
    assert row_stride(make_dataset(tmp_path / "data", [16], legacy=True)) == 16


@pytest.mark.parametrize(
    ("tokens", "windows"), [(639, 1), (640, 4), (12_800, 4), (16_000, 5), (3200 * 64, 64), (3200 * 65, 64), (10**9, 64)]
)
def test_a_text_has_200_blocks_of_4_to_64_windows(tokens, windows):
    assert splitting._block_length(tokens, 16) == windows * 16


def test_the_first_window_of_a_block_starts_in_it():
    blocks = splitting._cut([100], 25)  # the second block starts at 25, so its first window starts at 32
    runs = splitting._training_runs(blocks, np.array([False, True, False, True]), window=16, step=8)
    assert [(int(run["start"]), int(run["count"])) for run in runs] == [(0, 2), (56, 1)]
    assert splitting._ceil_div(np.array([0, 1, 8, 9]), 8).tolist() == [0, 1, 1, 2]


def test_blocks_cover_every_file_to_its_end():
    blocks = splitting._cut([100, 7, 39], 20)
    assert list(zip(blocks.file.tolist(), blocks.start.tolist(), blocks.end.tolist(), strict=True)) == [
        (0, 0, 20), (0, 20, 40), (0, 40, 60), (0, 60, 80), (0, 80, 100), (1, 0, 7), (2, 0, 39)
    ]  # fmt: skip
    assert blocks.file_length.tolist() == [100] * 5 + [7, 39]


@pytest.mark.parametrize(("share", "held_out"), [(0.0, 1), (0.04, 1), (0.25, 5), (0.5, 10)])
def test_the_share_of_blocks_is_held_out(share, held_out):
    assert int(splitting._draw(20, share, 3).sum()) == held_out


def test_text_without_training_windows_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "data", [16])
    with pytest.raises(PipelineError, match="it has 16 tokens, and a window is 16 tokens"):
        split_windows(dataset, val_split=0.2, seed=1)


def test_an_epoch_has_whole_steps_of_all_processes(tmp_path):
    dataset = make_dataset(tmp_path / "data", [20_000])
    split = split_windows(dataset, val_split=0.2, seed=42)
    step = 4 * 3 * 2
    loader = make_loader(dataset, batch_size=4, batches_per_step=3, parts=1, world=World(1, 2))
    assert loader.num_parts == 1
    assert len(loader) == split.train_size // step * 3
    assert len(list(loader)) == len(loader)
    assert loader.state_dict() == {"epoch": 1, "windows": 0, "num_parts": 1, "step_windows": step, "seed": 5}
    next(iter(loader))
    assert loader.state_dict()["windows"] == 4 * 2


def test_a_step_larger_than_the_text_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "data", [2_000])
    split = split_windows(dataset, val_split=0.2, seed=42)
    size = split.train_size
    TrainingLoader(dataset, split, LoaderOptions(batch_size=size, world=World()), device=CPU)
    with pytest.raises(
        PipelineError, match=rf"has {size} training windows of 16 tokens, but one step needs {size + 1};"
    ):
        TrainingLoader(dataset, split, LoaderOptions(batch_size=size + 1, world=World()), device=CPU)


def test_without_shuffling_the_text_is_read_in_order(tmp_path):
    dataset = make_dataset(tmp_path / "data", [20_000])
    loader = make_loader(dataset, shuffle=False, parts=1)
    starts = np.concatenate([batch[:, 0].numpy() for batch in loader])
    assert (np.diff(starts) > 0).all()


@pytest.mark.parametrize(
    ("stride", "declared", "overlap"), [(8, 0.5, 0.5), (8, 0.25, 0.5), (8, None, 0.5), (20, None, 0.0)]
)
def test_the_declared_overlap_counts_if_it_gives_the_stride(stride, declared, overlap):
    assert _overlap(16, stride, declared) == overlap
