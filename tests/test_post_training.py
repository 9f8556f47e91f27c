"""Fine-tuning: only answers are learned, packed or not; runs resume exactly; mismatches are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lima_tokenizer
import post_training
from model import load_model
from pipeline.configuration import load_config
from pipeline.formats.chat_template import TEMPLATE_NAME, encode_conversation
from pipeline.formats.checkpoint import read_checkpoint, write_checkpoint
from pipeline.modeling.config import ModelConfig
from pipeline.tuning.compatibility import tuning_config
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.loader import ConversationLoader, pack, split_examples
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.cli import exit_code_of

CPU = torch.device("cpu")
CONVERSATIONS = [
    *([f"the fox {number}?", "the quick brown dog"] for number in range(18)),
    ["the lazy dog?", "jumps", "over?", "a lazy fox jumps over the dog"],
    ["Zürich?", "User and Assistant talk"],
]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A tokenizer, a base checkpoint and prepared conversations; returns the folder and its settings."""
    folder = tmp_path_factory.mktemp("tuning")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    small_checkpoint(folder / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt", tokenizer, weight_scale=1.0)
    source = folder / "chats.jsonl"
    source.write_text(
        "\n".join(json.dumps({"conversations": conversation}) for conversation in CONVERSATIONS), encoding="utf-8"
    )
    paths = {"tokenizer": "tokenizer", "checkpoint": "checkpoints", "log": "logs", "post_training": "data"}
    values = [*(f"paths.{key}_dir={folder / name}" for key, name in paths.items()), "sft.sample_length=4"]
    settings = [part for value in values for part in ("--set", value)]
    assert lima_tokenizer.main(["--input", str(source), "--max-length", "96", *settings]) == 0
    return folder, settings


def tune(workshop, *arguments, checkpoint="latest"):
    folder, settings = workshop
    before = set((folder / "checkpoints").iterdir())
    code = post_training.main(["--checkpoint", str(checkpoint), "--device", "cpu", *settings, *arguments])
    assert code == 0
    (run,) = set((folder / "checkpoints").iterdir()) - before
    return run


@pytest.fixture(scope="module")
def tuned(workshop):
    return tune(workshop, "--epochs", "2", "--lr", "0.01", "--name", "mine")


def test_a_run_leaves_its_files_and_a_better_model(tuned):
    assert tuned.name.startswith("sft_lima_")
    names = {path.name for path in tuned.iterdir()}
    epochs = {"checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"}
    assert names == {"checkpoint_best.pt", "checkpoint_latest.pt", "sft_config.json", "loss_curve.png", *epochs}
    content = read_checkpoint(tuned / "checkpoint_best.pt")
    assert content["chat_template"] == TEMPLATE_NAME
    assert content["best"]["loss"] < content["before"]["loss"] - 0.5
    assert load_model(tuned / "checkpoint_best.pt").config == load_model(content["base"]["checkpoint"]).config


def test_the_record_is_enough_to_run_it_again(tuned, workshop):
    record = json.loads((tuned / "sft_config.json").read_text())
    assert record["commands"][0].startswith("python3 post_training.py --checkpoint latest --device cpu")
    assert record["config"]["sft"]["learning_rate"] == record["config"]["training"]["learning_rate"] == 0.01
    assert record["base"]["checkpoint"].endswith("run_2026_01_01_00_00/checkpoint_latest.pt")
    assert record["name"] == "mine"
    assert record["data"]["training_conversations"] + record["data"]["validation_conversations"] == 20
    data = SftDataset.open(workshop[0] / "data")
    assert record["data"]["fingerprint"] == data.metadata["files"]["tokenized_examples.npy"]


def test_log_starts_with_a_validation_before_step_one(tuned, workshop):
    (log,) = (workshop[0] / "logs/raw_metrics").glob(f"{tuned.name}_mine.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line["step"] for line in lines if "val_loss" in line]
    assert steps == [0, 1, 2, 3, 4, 5, 6]  # three steps an epoch: a fifth of an epoch is less than a step
    samples = [line for line in lines if line.get("event") == "samples"]
    assert len(samples) == 7
    assert "What is the capital of France?" in samples[0]["text"]


@pytest.mark.parametrize("packing", [False, True])
def test_a_resumed_run_ends_with_the_same_weights(workshop, tmp_path, packing):
    options = ["--epochs", "2", "--batch-size", "4"]
    if packing:
        options.append("--packing")
    run = tune(workshop, *options)
    whole = read_checkpoint(run / "checkpoint_latest.pt")
    first = tmp_path / "checkpoint_latest.pt"
    shutil.copyfile(run / "checkpoint_epoch_1.pt", first)
    shutil.copyfile(run / "sft_config.json", tmp_path / "sft_config.json")
    assert post_training.main(["--resume", str(tmp_path), *workshop[1]]) == 0
    resumed = read_checkpoint(first)
    assert resumed["step"] == whole["step"]
    assert resumed["before"] == whole["before"]
    commands = json.loads((tmp_path / "sft_config.json").read_text())["commands"]
    assert ["--resume" in command for command in commands] == [False, True]
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, resumed["model"][name]), name


def loader_of(workshop, **options):
    data = SftDataset.open(workshop[0] / "data")
    return ConversationLoader(data, np.arange(len(data.ids)), device=CPU, batch_size=4, **options)


def test_labels_are_the_assistants_tokens_and_nothing_else(workshop):
    from tokenizer import load_tokenizer

    tokenizer = load_tokenizer(workshop[0] / "tokenizer")
    batch = loader_of(workshop).make_batch([[18], [0]])
    for row, number in enumerate((18, 0)):
        texts = CONVERSATIONS[number]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        wanted = encode_conversation(tokenizer, messages)
        labels = batch["labels"][row].tolist()
        learned = [(place, token) for place, token in enumerate(labels) if token != -100]
        answers = [(i, token) for i, token in enumerate(wanted.ids) if wanted.mask[i]]
        assert learned == answers
        assert batch["input_ids"][row, : len(wanted.ids)].tolist() == wanted.ids


def reference_loss(model, loader, examples):
    """A reference: the mean over all learned tokens, one conversation at a time."""
    total, count = 0.0, 0
    for example in examples:
        batch = loader.make_batch([[example]])
        logits = model(batch["input_ids"])["logits"][0, :-1]
        targets = batch["labels"][0, 1:]
        total = total + F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        count += int((targets != -100).sum())
    return total / count


@pytest.mark.parametrize("packing", [False, True])
def test_batch_loss_equals_the_loss_of_single_conversations(workshop, packing):
    plain, loader = loader_of(workshop), loader_of(workshop, packing=packing)
    groups = [[18, 0, 19], [5, 7]] if packing else [[18], [0], [19], [5], [7]]
    model = load_model(workshop[0] / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt")
    loss = model(**loader.make_batch(groups))["loss"]
    wanted = reference_loss(model, plain, [example for group in groups for example in group])
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    found = torch.autograd.grad(loss, model.model.embed_tokens.weight)[0]
    expected = torch.autograd.grad(wanted, model.model.embed_tokens.weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_packing_places_every_conversation_once_and_fills_rows():
    lengths = np.random.default_rng(0).integers(1, 97, size=200).tolist()
    rows = pack(lengths, 96)
    assert sorted(place for row in rows for place in row) == list(range(200))
    assert max(sum(lengths[place] for place in row) for row in rows) <= 96
    assert len(rows) <= 1.1 * sum(lengths) / 96


def test_conversations_that_fill_a_row_exactly_share_it():
    assert pack([4, 6, 10, 3, 7], 10) == [[2], [4, 3], [1, 0]]


def test_held_out_tenth_is_deterministic():
    training, validation = split_examples(542, val_split=0.1, seed=42)
    assert (len(training), len(validation)) == (488, 54)
    assert not set(training) & set(validation)
    np.testing.assert_array_equal(split_examples(542, val_split=0.1, seed=42)[1], validation)
    for number in (2, 4, 10):
        assert len(split_examples(number, val_split=0.1, seed=42)[1]) == 1
    assert len(split_examples(4, val_split=1.0, seed=42)[0]) == 1


def test_every_epoch_gives_every_conversation_in_another_order(workshop):
    loader = loader_of(workshop, seed=1)
    epochs = [[batch["input_ids"] for batch in loader] for _ in range(2)]
    rows = [sorted(tuple(row.tolist()) for batch in epoch for row in _padded(batch)) for epoch in epochs]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 20
    assert not all(torch.equal(_padded(a), _padded(b)) for a, b in zip(*epochs, strict=True))


def _padded(ids):
    return F.pad(ids, (0, 96 - ids.shape[1]))


def test_loader_continues_from_its_state(workshop):
    loader, other = loader_of(workshop, seed=1), loader_of(workshop, seed=1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    other.load_state_dict(loader.state_dict())
    torch.testing.assert_close(next(iter(other)), next(batches))


def test_training_is_configured_as_fine_tuning_says(workshop):
    path = workshop[0] / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt"
    config = load_config(settings=["sft.early_stopping_patience=2", "sft.gradient_accumulation_steps=3"])
    training = tuning_config(config, read_checkpoint(path), origin=path).training
    assert (training.learning_rate, training.batch_size, training.validations_per_epoch) == (5e-5, 8, 5)
    assert (training.early_stopping_patience, training.gradient_accumulation_steps, training.max_steps) == (2, 3, None)


@pytest.mark.parametrize(
    ("ids", "shown"), [([], "(no text)"), ([13] * 3, "(3 tokens of white space)"), ([13, 75, 108], "Hi")]
)
def test_a_sample_answer_is_shown_in_one_line(monkeypatch, ids, shown):
    from pipeline.tuning import sample_answers
    from tests.fake_tokenizer import ByteTokenizer

    monkeypatch.setattr(sample_answers, "generate_batch", lambda *args, **options: [ids])
    model = torch.nn.Linear(1, 1)
    assert sample_answers.SampleAnswers(ByteTokenizer(), ["Why?"], max_length=5).answers(model) == [("Why?", shown)]


def error_of(arguments, capsys):
    code = exit_code_of(lambda: post_training.main(arguments))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("layers", [3, ModelConfig().num_hidden_layers])
def test_another_architecture_is_refused(workshop, capsys, layers):
    arguments = [
        "--checkpoint",
        "latest",
        "--device",
        "cpu",
        *workshop[1],
        "--set",
        f"model.num_hidden_layers={layers}",
    ]
    code, error = error_of(arguments, capsys)
    assert code == 1
    assert f"model.num_hidden_layers is {layers} in the configuration, but 2 in checkpoint" in error


def test_weights_that_contradict_their_configuration_are_refused(workshop, tmp_path, capsys):
    content = read_checkpoint(workshop[0] / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt")
    content["config"]["model"]["intermediate_size"] = 96
    write_checkpoint(tmp_path / "a.pt", content)
    code, error = error_of(["--checkpoint", str(tmp_path / "a.pt"), "--device", "cpu", *workshop[1]], capsys)
    assert code == 1
    assert "does not match the model: model.layers.0.mlp." in error


def test_another_tokenizers_conversations_are_refused(workshop, tmp_path, capsys):
    content = read_checkpoint(workshop[0] / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt")
    content["tokenizer"]["fingerprint"] = "f" * 64
    write_checkpoint(tmp_path / "a.pt", content)
    code, error = error_of(["--checkpoint", str(tmp_path / "a.pt"), "--device", "cpu", *workshop[1]], capsys)
    assert code == 1
    assert "(ffffffffffff), but the conversations in" in error


def test_conversations_longer_than_the_context_are_refused(workshop, tmp_path, capsys):
    from tokenizer import load_tokenizer

    path = small_checkpoint(tmp_path / "a.pt", load_tokenizer(workshop[0] / "tokenizer"), max_position_embeddings=64)
    code, error = error_of(["--checkpoint", str(path), "--device", "cpu", *workshop[1]], capsys)
    assert code == 1
    assert "up to 96 tokens, but the model's context is 64; run: python3 lima_tokenizer.py --max-length 64" in error


def test_missing_conversations_name_the_command(workshop, tmp_path, capsys):
    arguments = ["--checkpoint", "latest", "--device", "cpu", *workshop[1], "--set"]
    code, error = error_of([*arguments, f"paths.post_training_dir={tmp_path}"], capsys)
    assert code == 1
    assert "run: python3 lima_tokenizer.py" in error


def test_only_a_fine_tuning_run_can_be_resumed(workshop, capsys):
    base = workshop[0] / "checkpoints/run_2026_01_01_00_00"
    code, error = error_of(["--resume", str(base), *workshop[1]], capsys)
    assert code == 1
    assert "is not from a fine-tuning run" in error


def test_a_run_is_not_resumed_on_other_conversations(workshop, tuned, tmp_path, capsys):
    settings = workshop[1]
    source = tmp_path / "other.jsonl"
    source.write_text("\n".join(json.dumps({"conversations": [word, "fox"]}) for word in ("the", "a", "over")))
    arguments = [*settings, "--set", f"paths.post_training_dir={tmp_path / 'data'}"]
    lima_tokenizer.main(["--input", str(source), "--max-length", "96", *arguments])
    code, error = error_of(["--resume", str(tuned), *arguments], capsys)
    assert code == 1
    assert "was tuned on different conversations" in error


@pytest.mark.parametrize("arguments", [[], ["--checkpoint", "a", "--resume", "b"]])
def test_half_a_command_is_a_usage_error(arguments, capsys):
    assert error_of(arguments, capsys)[0] == 2
