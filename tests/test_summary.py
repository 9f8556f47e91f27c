"""The summary: counts match the model, and estimates are close to measurements."""

import re
from dataclasses import replace

import pytest
import torch

from model import TransformerLM, main
from pipeline.configuration import CHECKOUT, load_config
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.memory_estimate import inference_memory, parameters_by_part, training_memory
from pipeline.modeling.summary import expected_tokens_per_second, summary
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
    if checkpointing:  # the inputs of all blocks, and what one block keeps while it is computed again
        one_block = replace(SMALL, num_hidden_layers=1)
        kept_by_one = training_memory(one_block, batch_size=8, length=64, bytes_per_value=size)["activations"]
        assert estimate == kept_by_one + 3 * 8 * 64 * 96 * size
    else:
        assert sum(kept.values()) == pytest.approx(estimate, rel=0.01 if dtype == torch.float32 else 0.15)


def test_weights_and_logits_are_estimated_as_adamw_holds_them():
    model = TransformerLM(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 64, dtype=torch.long), torch.ones(2, 64, dtype=torch.long))["loss"].backward()
    optimizer.step()
    held = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim()]
    held += [tensor for parameter in model.parameters() for tensor in (parameter, parameter.grad)]
    memory = training_memory(SMALL, batch_size=2, length=64)
    assert memory["weights, gradients, AdamW (float32)"] == sum(tensor.nbytes for tensor in held)
    assert memory["weights in the compute type"] == 2 * model.num_parameters()
    assert memory["output logits, in chunks"] == 2 * 64 * 512 * 2
    assert training_memory(SMALL, batch_size=100, length=64)["output logits, in chunks"] == 4096 * 512 * 2


def test_generation_memory_is_the_caches_and_the_weights():
    cache = KVCache(SMALL, batch_size=3, max_length=SMALL.context_length, dtype=torch.bfloat16, device="cpu")
    memory = inference_memory(SMALL, rows=3)
    assert memory["cache, full context"] == cache.keys.nbytes + cache.values.nbytes
    assert memory["weights"] == 2 * TransformerLM(SMALL).num_parameters()


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


def test_summary_of_a_preset_adds_up():
    config = load_config(CHECKOUT / "configs" / "110m.json")
    rows = [re.split(r"\s{2,}", line) for line in summary(config, device_name="H100").splitlines()]
    assert ["attention", "22,020,096", "19.5%"] in rows
    assert ["total", "112,690,944"] in rows
    assert any(row[0].startswith("training: 808.1M floating-point operations per token at 1024 tokens") for row in rows)
    assert any(row[0].endswith("262,144 tokens per step and process") for row in rows)
    assert ["weights, gradients, AdamW (float32)", "1.7 GB"] in rows
    assert ["total", "14.4 GB"] in rows
    assert ["memory for generation, one sequence of 1024 tokens"] in rows
    assert rows[-1][0].startswith("expected on one H100: 489,524 tokens per second at 40% of its peak; ")
    assert rows[-1][0].endswith("20 tokens per parameter (2.3B) in 1h 16m")
    in_float32 = replace(config, training=replace(config.training, dtype="float32"))
    assert re.search(r"weights in the compute type +429.9 MB", summary(in_float32))
    assert "expected on" not in summary(config)


def test_the_model_alone_has_nothing_to_do():
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


def test_generation_memory_uses_the_trained_context(capsys):
    assert main(["--summary"]) == 0
    assert "memory for generation, one sequence of 512 tokens" in capsys.readouterr().out
    stretched = ["--set", "model.rope_scaling=yarn", "--set", "model.rope_scaling_factor=2"]
    assert main(["--summary", *stretched]) == 0
    assert "memory for generation, one sequence of 2048 tokens" in capsys.readouterr().out
