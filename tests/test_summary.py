"""The summary: counts match the model, and estimates are close to measurements."""

import re
from dataclasses import replace

import pytest
import torch

from model import TransformerLM, main
from pipeline.configuration import CHECKOUT, load_config
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.memory_estimate import parameters_by_part, training_memory
from pipeline.modeling.summary import expected_tokens_per_second
from utils.errors import PipelineError

SMALL = ModelConfig(
    vocab_size=512,
    hidden_size=96,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=256,
)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_parameters_by_part_add_up_to_the_model(tied, qk_norm):
    config = replace(SMALL, tie_word_embeddings=tied, qk_norm=qk_norm)
    assert sum(parameters_by_part(config).values()) == TransformerLM(config).num_parameters()


@pytest.mark.parametrize(("name", "millions"), [(None, 25), ("110m", 113), ("350m", 348), ("1b", 1058)])
def test_the_presets_have_the_size_that_they_are_called_by(name, millions):
    config = load_config(CHECKOUT / "configs" / f"{name}.json" if name else None)
    assert sum(parameters_by_part(config.model).values()) / 1e6 == pytest.approx(millions, rel=0.01)
    with torch.device("meta"):
        assert TransformerLM(config.model).num_parameters() == sum(parameters_by_part(config.model).values())


@pytest.mark.parametrize("name", ["110m", "350m", "1b"])
def test_presets_explain_their_rate_and_batch(name):
    path = CHECKOUT / "configs" / f"{name}.json"
    lines = path.read_text().splitlines()
    for key in ("batch_size", "gradient_accumulation_steps", "learning_rate", "min_learning_rate", "warmup_steps"):
        (line,) = (row for row in lines if f'"{key}":' in row)
        assert re.search(r"// \w", line), f"{key} has no reason"
    config = load_config(path)
    told = next(line for line in lines if '"gradient_accumulation_steps"' in line)
    training = config.training
    tokens = training.batch_size * training.gradient_accumulation_steps * config.dataset.window
    assert f"{tokens:,} tokens per step" in told
    assert training.min_learning_rate == pytest.approx(training.learning_rate / 10)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_estimate_matches_the_backward_pass(checkpointing, dtype):
    config = replace(SMALL, activation_checkpointing=checkpointing)
    model = TransformerLM(config, Execution(compute_dtype=dtype)).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.dim() > 1 and len(tensor) == 8:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden_states(torch.randint(0, 512, (8, 64)))
    size = dtype.itemsize
    estimate = training_memory(config, batch_size=8, length=64, bytes_per_value=size)["activations"]
    if checkpointing:  # one block is computed again at a time; the hooks see what is kept between blocks only
        one_block = training_memory(replace(config, activation_checkpointing=False), batch_size=8, length=64)
        assert estimate < one_block["activations"]
    else:
        assert sum(kept.values()) == pytest.approx(estimate, rel=0.35)


def test_expected_speed_is_for_known_devices_only():
    slow, fast = (expected_tokens_per_second(SMALL, length=64, device_name=n) for n in ("rtx 3090", "NVIDIA H100 80GB"))
    assert fast > 10 * slow
    with pytest.raises(PipelineError, match=r"unknown device name 'H1000X'|unknown device name 'H10'"):
        expected_tokens_per_second(SMALL, length=64, device_name="H10")


def test_the_command_prints_it_all(capsys):
    assert main(["--summary", "--config", str(CHECKOUT / "configs" / "350m.json"), "--device-name", "H100"]) == 0
    said = capsys.readouterr().out
    for word in ("feed-forward", "operations per token at 1024", "AdamW", "cache, full context", "on one H100"):
        assert word in said


def test_generation_memory_uses_the_trained_context(capsys):
    assert main(["--summary"]) == 0
    assert "memory for generation, one sequence of 512 tokens" in capsys.readouterr().out
    stretched = ["--set", "model.rope_scaling=yarn", "--set", "model.rope_scaling_factor=2"]
    assert main(["--summary", *stretched]) == 0
    assert "memory for generation, one sequence of 2048 tokens" in capsys.readouterr().out
