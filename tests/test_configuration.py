"""The configuration: its files agree, and invalid values are one-line errors."""

import json
import re

import pytest

from pipeline.configuration import CHECKOUT, DEFAULT_CONFIG, SECTIONS, config_from_dict, load_config, load_config_from
from pipeline.configuration_docs import CONFIGURATION_PAGE, config_json, configuration_page
from utils.cli import stage_parser
from utils.errors import PipelineError, UsageError


def test_config_json_and_docs_match_the_dataclasses():
    assert json.loads(DEFAULT_CONFIG.read_text()) == json.loads(config_json()), "run: make config"
    assert CONFIGURATION_PAGE.read_text() == configuration_page(), "run: make config"
    for name, section in SECTIONS.items():
        for key in section.__dataclass_fields__:
            assert f"| `{key}` |" in CONFIGURATION_PAGE.read_text().split(f"## `{name}`")[1]


def test_flags_override_settings_override_files_override_defaults(tmp_path):
    overlay = tmp_path / "mine.json"
    overlay.write_text('{"training": {"batch_size": 5, "device": "cpu", "seed": 3}} // a comment')
    config = load_config(overlay, settings=["training.batch_size=6", "training.seed=4"], flags={"training.seed": 7})
    assert (config.training.device, config.training.batch_size, config.training.seed) == ("cpu", 6, 7)
    assert config.training.learning_rate == load_config().training.learning_rate


def test_the_config_knows_which_keys_the_user_set(tmp_path, monkeypatch):
    overlay = tmp_path / "mine.json"
    overlay.write_text('{"dataset": {"window": 512}}')
    assert load_config().explicit == frozenset()
    config = load_config(overlay, settings=["training.seed=1337"], flags={"dataset.overlap": 0.5})
    assert config.explicit == {"dataset.window", "training.seed", "dataset.overlap"}
    edited = tmp_path / "config.json"
    edited.write_text(DEFAULT_CONFIG.read_text().replace('"window": 512', '"window": 256'))
    monkeypatch.setattr("pipeline.configuration.DEFAULT_CONFIG", edited)
    assert load_config().explicit_values()["dataset"]["window"] == 256
    assert "dataset.overlap" not in load_config().explicit


@pytest.mark.parametrize("way", ["overlay", "--set", "config.json"])
def test_paths_below_data_dir_follow_it(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkout").mkdir()
    overlay = tmp_path / "checkout" / "mine.json"
    overlay.write_text('{"paths": {"data_dir": "../data"}}')
    if way == "config.json":
        edited = DEFAULT_CONFIG.read_text().replace('"data_dir": "data"', f'"data_dir": "{tmp_path}/data"')
        (tmp_path / "config.json").write_text(edited)
        monkeypatch.setattr("pipeline.configuration.DEFAULT_CONFIG", tmp_path / "config.json")
        monkeypatch.setattr("pipeline.configuration.CHECKOUT", tmp_path)
    config = load_config(overlay if way == "overlay" else None, settings=["paths.data_dir=data"] * (way == "--set"))
    data = tmp_path / "data"
    assert (config.paths.raw_dir, config.paths.cleaned_dir) == (
        data / "raw/enwiki_namespace_0",
        data / "cleaned_articles",
    )
    assert config.paths.post_training_dir == data / "post-training"
    for source in ("wikipedia", "fineweb", "custom"):
        for test in (False, True):
            assert config.dataset.directory(test=test, source=source).parent == data / "tokenized_datasets"
    assert not config.paths.checkpoint_dir.is_relative_to(data)


def test_a_path_that_is_set_does_not_follow_data_dir(tmp_path):
    overlay = tmp_path / "mine.json"
    overlay.write_text('{"paths": {"data_dir": "elsewhere", "cleaned_dir": "clean"}}')
    default_raw_dir = load_config().paths.raw_dir
    config = load_config(overlay, settings=[f"paths.raw_dir={default_raw_dir}"])
    assert config.paths.cleaned_dir == tmp_path / "clean"
    assert config.paths.raw_dir == default_raw_dir
    stored = load_config(base=config.to_dict(), settings=[f"paths.data_dir={tmp_path}/moved"])
    assert (stored.paths.raw_dir, stored.paths.cleaned_dir) == (default_raw_dir, tmp_path / "clean")
    assert stored.paths.post_training_dir == tmp_path / "moved" / "post-training"


def test_a_path_is_relative_to_the_file_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    overlay = tmp_path / "folder" / "mine.json"
    overlay.write_text('{"paths": {"log_dir": "l"}}')
    config = load_config(overlay, settings=["paths.raw_dir=r"])
    assert config.paths.log_dir == tmp_path / "folder" / "l"
    assert config.paths.raw_dir == tmp_path / "r"
    assert config.paths.checkpoint_dir == DEFAULT_CONFIG.parent / "checkpoints"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"training": {"batchsize": 1}}', "unknown key training.batchsize; did you mean 'batch_size'?"),
        ('{"trainning": {}}', "unknown section 'trainning'; did you mean 'training'?"),
        ('{"training": {"batch_size": "8"}}', "training.batch_size is '8'; expected an integer"),
        ('{"training": {"batch_size": true}}', "training.batch_size is True; expected an integer"),
        ('{"training": {"batch_size": 0}}', "training.batch_size is 0; expected at least 1"),
        ('{"training": {"device": "cudaa"}}', "one of cuda, cpu, mps; did you mean 'cuda'?"),
        ('{"training": {"learning_rate": NaN}}', "training.learning_rate is nan; expected a number"),
        ('{"model": {"num_key_value_heads": 4}}', "is not divisible by model.num_key_value_heads 4"),
        (
            '{"model": {"num_attention_heads": 7}}',
            "model.hidden_size 384 is not divisible by model.num_attention_heads 7",
        ),
        ('{"dataset": {"window": 4096}}', "model.max_position_embeddings 1024 is below dataset.window 4096"),
        ('{"training": {"min_learning_rate": 1}}', "training.min_learning_rate 1.0 is above"),
        ('{"training": {"seed": 1, "seed": 2}}', "duplicate key 'seed'"),
        ('{"training": 3}', "section 'training' is 3"),
        ('{"training": {', "is not valid JSON"),
        ("[]", "contains a list"),
    ],
)
def test_invalid_settings_are_reported(tmp_path, content, said):
    overlay = tmp_path / "mine.json"
    overlay.write_text(content)
    with pytest.raises(PipelineError) as caught:
        load_config(overlay)
    assert said in str(caught.value)
    assert "mine.json" in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(PipelineError, match=r"nowhere\.json does not exist"):
        load_config("nowhere.json")


@pytest.mark.parametrize("setting", ["training.batch_size", "batch_size=3", "=3"])
def test_a_malformed_setting_is_a_usage_error(setting):
    with pytest.raises(UsageError, match="--set"):
        load_config(settings=[setting])


def test_a_setting_may_hold_null_numbers_and_text():
    config = load_config(settings=["training.max_steps=12", "model.intermediate_size=null", "tokenizer.name=123"])
    assert (config.training.max_steps, config.model.ffn_size, config.tokenizer.name) == (12, 1024, "123")


def test_a_stored_config_reads_back_equal():
    config = load_config(settings=["training.device=cpu", "training.max_steps=3"])
    assert config_from_dict(json.loads(json.dumps(config.to_dict())), origin="checkpoint") == config


def test_options_beat_set_and_unused_ones_change_nothing():
    parser = stage_parser("")
    parser.add_argument("--batch-size", dest="sft.batch_size", type=int)
    parser.add_argument("--epochs", dest="sft.num_epochs", type=int)
    config = load_config_from(parser.parse_args(["--set", "sft.batch_size=4", "--set", "sft.seed=3", "--batch-size=2"]))
    assert (config.sft.batch_size, config.sft.seed) == (2, 3)
    assert config.explicit == {"sft.batch_size", "sft.seed"}


def test_every_option_sets_a_key_that_exists():
    for path in [*CHECKOUT.glob("*.py"), *CHECKOUT.glob("pipeline/*/command_line.py")]:
        for section, key in re.findall(r'dest="(\w+)\.(\w+)"', path.read_text(encoding="utf-8")):
            assert key in SECTIONS[section].__dataclass_fields__, f"{path.name}: {section}.{key}"
