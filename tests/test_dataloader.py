"""The loader: no validation tokens in training, every window once per epoch, exact resuming."""

import json
import threading

import numpy as np
import pytest
import torch

from dataloader import create_simple_train_val_dataloaders
from pipeline.dataloading.loaders import LoaderOptions, TrainingLoader, ValidationLoader
from pipeline.dataloading.resident_parts import copied
from pipeline.dataloading.split import split_windows, window_positions
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation.config import DatasetConfig
from utils.checksums import sha256_of
from utils.devices import World
from utils.errors import PipelineError

CPU = torch.device("cpu")


def make_dataset(directory, lengths, *, window=16, stride=8, legacy=False) -> TokenDataset:
    """Streams in which the value of every token is its position."""
    directory.mkdir(exist_ok=True)
    first, files = 0, []
    for index, length in enumerate(lengths):
        stream = np.arange(first, first + length).astype(np.uint16)
        first += length
        if legacy:
            stream = np.lib.stride_tricks.sliding_window_view(stream, window)[::stride].copy()
        path = directory / f"tokens_{index}.npy"
        np.save(path, stream)
        files.append({"name": path.name, "tokens": length, "sha256": sha256_of(path)})
    metadata = {"window": window, "stride": stride, "files": files, "totals": {}, "format_version": 1}
    (directory / "metadata.json").write_text(json.dumps({} if legacy else metadata))
    return TokenDataset.open(directory, window=window, stride=stride)


def make_loader(dataset, *, batch_size=4, parts=3, batches_per_step=2, shuffle=True, world=None, free_bytes=None):
    options = LoaderOptions(
        batch_size=batch_size,
        batches_per_step=batches_per_step,
        shuffle=shuffle,
        order_seed=5,
        min_parts=parts,
        world=world or World(),
    )
    split = split_windows(dataset, val_split=0.2, seed=42)
    return TrainingLoader(dataset, split, options, device=CPU, free_bytes=free_bytes)


def validation_ids(dataset, split, **options):
    return torch.cat(list(ValidationLoader(dataset, split, LoaderOptions(**options))))


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data", [20_011, 9_003, 30_000])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("overlap", [0, 8, 15])
@pytest.mark.parametrize("lengths", [[15_000], [8_011, 3_003, 12_000], [700, 90, 16, 333]])
def test_validation_tokens_never_appear_in_training(tmp_path, lengths, overlap, legacy):
    dataset = make_dataset(tmp_path / "data", lengths, stride=16 - overlap, legacy=legacy)
    split = split_windows(dataset, val_split=0.1, seed=42)
    train = np.concatenate([batch.numpy().ravel() for batch in make_loader(dataset, batch_size=1, batches_per_step=1)])
    validation = validation_ids(dataset, split, batch_size=4).numpy().ravel()
    split_20 = split_windows(dataset, val_split=0.2, seed=42)  # what make_loader splits by
    held_out = validation_ids(dataset, split_20, batch_size=4).numpy().ravel()
    assert len(np.intersect1d(train, held_out)) == 0
    assert len(np.unique(validation)) == len(validation), "validation windows do not overlap"
    assert len(validation) >= 16
    if len(validation) > 1000:
        assert 0.08 < len(validation) / sum(lengths) < 0.12
        assert len(np.unique(train)) + len(held_out) > 0.97 * sum(lengths), "hardly a token is lost between the two"


def test_a_part_is_copied_piece_by_piece(monkeypatch):
    pieces = []
    monkeypatch.setattr("pipeline.dataloading.resident_parts._LOCKED_VALUES", 7)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pieces.append(len(tensor)) or tensor)
    tokens = torch.arange(30).to(torch.int16)
    assert torch.equal(copied(tokens, torch.device("cpu")), tokens)
    assert pieces == [7, 7, 7, 7, 2]


def test_split_is_determined_by_the_seed(dataset):
    one, same, other = (split_windows(dataset, val_split=0.1, seed=seed) for seed in (42, 42, 43))
    assert np.array_equal(one.validation, same.validation)
    assert np.array_equal(one.train, same.train)
    assert not np.array_equal(one.validation, other.validation)


def test_every_training_window_is_a_window_of_the_dataset(dataset):
    split = split_windows(dataset, val_split=0.1, seed=42)
    file, start = window_positions(split.train, split.train_step)
    own = {(f, s) for f in range(3) for s in dataset.starts_of(f)}
    last = {(f, len(dataset.files[f]) - 16) for f in range(3)}
    # The last window of a file ends at the end of the file, so it starts off the grid.
    assert {(f, min(s, len(dataset.files[f]) - 16)) for f, s in zip(file, start, strict=True)} <= own | last
    assert len(file) == split.train_size


def test_parts_are_loaded_in_the_background_but_the_first(dataset, monkeypatch):
    loader, threads = make_loader(dataset, parts=3), []
    original = loader.resident.load

    def load(key):
        threads.append(threading.current_thread() is threading.main_thread())
        return original(key)

    monkeypatch.setattr(loader.resident, "load", load)
    list(loader), list(loader)
    assert threads[:6] == [True, *[False] * 5]


def test_epochs_shuffle_and_contain_every_window_once(dataset):
    loader = make_loader(dataset)
    epochs = [torch.cat(list(loader)) for _ in range(2)]
    firsts = [set(epoch[:, 0].tolist()) for epoch in epochs]
    assert len(loader) * 4 == len(epochs[0]) == len(firsts[0]), "no window comes twice"
    assert len(epochs[0]) > 0.97 * loader.split.train_size
    assert not torch.equal(epochs[0], epochs[1])
    assert loader.epoch == 2
    assert torch.equal(torch.cat(list(make_loader(dataset))), epochs[0]), "the same seed gives the same order"


def test_the_parts_are_alike(dataset):
    loader = make_loader(dataset, parts=3)
    centres = [window_positions(part, 8)[1].mean() for part in loader._parts]
    assert max(centres) < 1.2 * min(centres), "each part has blocks from everywhere"


def test_ids_above_32767_stay_positive(dataset):
    seen = torch.cat(list(make_loader(dataset, shuffle=False)))
    assert seen.dtype == torch.int64
    assert seen.min() >= 0
    assert seen.max() > 50_000
    assert torch.equal(seen[0], torch.arange(16) + seen[0, 0])


@pytest.mark.parametrize("batches", [0, 2, 7, 100, 1000])
def test_loader_continues_where_another_stopped(dataset, batches):
    def stream(loader):
        while True:
            yield from loader

    whole = make_loader(dataset)
    uninterrupted = stream(whole)
    for _ in range(batches):
        next(uninterrupted)
    state = whole.state_dict()
    resumed = make_loader(dataset, parts=1)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    for _, expected, found in zip(range(10), uninterrupted, stream(resumed), strict=False):
        assert torch.equal(found, expected)


def test_two_processes_take_the_windows_of_one_with_accumulation(dataset):
    alone = list(make_loader(dataset, batch_size=4, batches_per_step=4))
    pair = [list(make_loader(dataset, batches_per_step=2, world=World(rank, 2))) for rank in (0, 1)]
    assert len(alone) == 2 * len(pair[0])
    for index, (left, right) in enumerate(zip(*pair, strict=True)):
        assert torch.equal(left, alone[2 * index])
        assert torch.equal(right, alone[2 * index + 1])


def test_resume_with_other_process_count_needs_equal_step_size(dataset):
    alone = make_loader(dataset, batches_per_step=4)
    batches = iter(alone)
    for _ in range(8):
        next(batches)
    state = alone.state_dict()
    second = make_loader(dataset, batches_per_step=2, world=World(1, 2))
    second.load_state_dict(state)
    assert torch.equal(next(iter(second)), [next(batches), next(batches)][1])
    with pytest.raises(PipelineError, match="trained with 16 windows per step, but the current settings give 32"):
        make_loader(dataset, batches_per_step=4, world=World(0, 2)).load_state_dict(state)


def test_little_memory_adds_parts_without_changing_windows(dataset):
    plain = make_loader(dataset, parts=1)
    tight = make_loader(dataset, parts=1, free_bytes=100_000)
    assert (plain.num_parts, tight.num_parts > 4) == (1, True)
    every = torch.cat(list(make_loader(dataset, batch_size=1, batches_per_step=1)))[:, 0].tolist()
    assert set(torch.cat(list(tight))[:, 0].tolist()) <= set(every)


def test_validation_is_a_fixed_subset_spread_over_the_text(dataset):
    split = split_windows(dataset, val_split=0.2, seed=42)
    full = validation_ids(dataset, split, batch_size=7)
    part = ValidationLoader(dataset, split, LoaderOptions(batch_size=7, val_tokens=20 * 16))
    subset = torch.cat(list(part))
    assert (len(subset), len(part), part.num_windows) == (20, 3, 20)
    assert torch.equal(subset[0], full[0])
    assert torch.equal(subset[-1], full[-1])
    shares = [validation_ids(dataset, split, batch_size=3, world=World(rank, 2)) for rank in (0, 1)]
    assert sorted(torch.cat(shares)[:, 0].tolist()) == sorted(full[:, 0].tolist())


def test_the_call_of_the_mission_works(tmp_path):
    make_dataset(tmp_path / "test", [30_000])
    config = DatasetConfig(wikipedia_test_dir=tmp_path / "test", window=16)
    train, val, info = create_simple_train_val_dataloaders(
        batch_size=64,
        val_split=0.1,
        shuffle_train=True,
        test_mode=True,
        verbose=True,
        seed=42,
        device="cpu",
        config=config,
    )
    assert next(iter(train)).shape == next(iter(val)).shape == (64, 16)
    assert (info["train_device"], info["val_device"]) == ("cpu", "cpu")
    assert 0.85 < info["train_size"] * 8 / 30_000 < 0.95
    assert 0.08 < info["val_size"] * 16 / 30_000 < 0.12


def test_incomplete_dataset_suggests_the_command(tmp_path):
    (tmp_path / "fineweb").mkdir()
    config = DatasetConfig(fineweb_test_dir=tmp_path / "fineweb")
    with pytest.raises(PipelineError, match=r"it has no metadata.json; run: python3 main.py fineweb --test"):
        create_simple_train_val_dataloaders(
            batch_size=2, test_mode=True, dataset_source="fineweb", device="cpu", config=config
        )


def test_too_little_text_is_refused_with_numbers(tmp_path):
    tiny = make_dataset(tmp_path / "tiny", [20])
    with pytest.raises(
        PipelineError, match="too small to hold out validation data: it has 20 tokens, and a window is 16 tokens"
    ):
        split_windows(tiny, val_split=0.1, seed=42)
    small = make_dataset(tmp_path / "small", [400])
    with pytest.raises(PipelineError, match=r"training windows of 16 tokens, but one step needs 512"):
        make_loader(small, batch_size=256)


def test_damage_is_named_before_a_validation_result(tmp_path):
    directory = tmp_path / "test"
    make_dataset(directory, [30_000, 30_000])
    with (directory / "tokens_1.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x01\x00")
    config = DatasetConfig(wikipedia_test_dir=directory, window=16)
    train, val, _ = create_simple_train_val_dataloaders(test_mode=True, device="cpu", config=config)
    with pytest.raises(PipelineError, match=r"token file .*tokens_1\.npy is damaged: its sha256 does not match"):
        next(iter(val))
    with pytest.raises(PipelineError, match=r"tokens_1\.npy is damaged"):
        next(iter(train))


@pytest.mark.parametrize("legacy", [False, True])
def test_ids_beyond_the_vocabulary_never_reach_the_model(tmp_path, legacy):
    make_dataset(tmp_path / "test", [30_000], legacy=legacy)
    config = DatasetConfig(wikipedia_test_dir=tmp_path / "test", window=16)
    options = {"test_mode": True, "device": "cpu", "config": config}
    create_simple_train_val_dataloaders(**options, vocab_size=30_000)
    train, val, _ = create_simple_train_val_dataloaders(**options, vocab_size=10_000)
    position = "10,000" if not legacy else r"19,\d+"  # rows overlap by half
    for loader in (train, val):
        with pytest.raises(PipelineError, match=rf"tokens_0\.npy contains token id 10000 at position {position}"):
            list(loader)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dataset_source": "wiki"}, "dataset.source is 'wiki'.*did you mean 'wikipedia'"),
        ({"batch_size": 0}, "training.batch_size is 0.*at least 1"),
        ({"val_split": 1.5}, "dataset.val_split is 1.5.*at most 0.5"),
        ({"seed": -1}, "dataset.seed is -1.*at least 0"),
    ],
)
def test_arguments_out_of_range_are_one_line(arguments, said):
    with pytest.raises(PipelineError, match=f"create_simple_train_val_dataloaders: {said}"):
        create_simple_train_val_dataloaders(device="cpu", **arguments)


def test_info_is_readable(tmp_path):
    make_dataset(tmp_path / "test", [30_000])
    config = DatasetConfig(wikipedia_test_dir=tmp_path / "test", window=16)
    info = create_simple_train_val_dataloaders(test_mode=True, device="cpu", config=config)[2]
    assert "30,000 tokens, windows of 16" in str(info)
    assert len(str(info)) < 500
