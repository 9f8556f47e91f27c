"""Preparing a model for training: the choices are reported, and the results are the same."""

from dataclasses import replace

import pytest
import torch

from model import TransformerLM
from pipeline.modeling import compiler
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.flash_attention import check_flash_attention
from pipeline.training.config import TrainingConfig
from pipeline.training.prepare_model import prepare_for_training
from utils.errors import PipelineError

CPU = torch.device("cpu")
SMALL = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
)
TRAINING = TrainingConfig(device="cpu", compile="off")


def small_model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(SMALL)


@pytest.fixture(autouse=True)
def _precision_as_before():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_compute_type_is_as_configured_with_float32_weights():
    model = small_model()
    said = prepare_for_training(model, replace(TRAINING, dtype="bfloat16"), CPU)
    assert said == "bfloat16, not compiled (training.compile is off)"
    assert model.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_missing_compiler_is_an_error_only_if_required(monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert "no C++ compiler (g++) is installed" in prepare_for_training(
        small_model(), replace(TRAINING, compile="auto"), CPU
    )
    with pytest.raises(PipelineError, match=r"compile is on, but no C\+\+ compiler .* --set training.compile=off"):
        prepare_for_training(small_model(), replace(TRAINING, compile="on"), CPU)


def test_missing_python_headers_prevent_compiling(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.sysconfig, "get_path", lambda name: str(tmp_path))
    chosen = prepare_for_training(small_model(), replace(TRAINING, compile="auto"), CPU)
    assert f"not compiled (Python's headers are not in {tmp_path}" in chosen


def test_unavailable_flash_attention_suggests_the_alternative(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr("pipeline.modeling.flash_attention.scaled_dot_product_attention", refuses)
    with pytest.raises(PipelineError, match=r"No available kernel.*--set training.attention=any"):
        check_flash_attention(SMALL, CPU, torch.bfloat16)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_training_is_restricted_to_flash_kernels(monkeypatch, checkpointing):
    model = TransformerLM(replace(SMALL, activation_checkpointing=checkpointing), Execution(flash_only=True))
    ids = torch.randint(0, 97, (1, 8))
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append(torch.backends.cuda.math_sdp_enabled())
        return original(*args, **kwargs)

    monkeypatch.setattr("pipeline.modeling.attention_kernels.F.scaled_dot_product_attention", spy)
    model.train()(ids, labels=ids)["loss"].backward()
    in_training, seen[:] = list(seen), []
    model.eval()(ids)
    assert in_training == [False] * (4 if checkpointing else 2), "also where the backward pass runs a block again"
    assert seen == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("varying", [False, True])
def test_compiled_training_gives_the_loss_and_gradients_of_uncompiled(dtype, varying):
    results = []
    for compile in ("off", "on"):
        model = small_model().train()
        prepare_for_training(model, replace(TRAINING, dtype=dtype, compile=compile), CPU, varying_lengths=varying)
        for length in (64, 33) if varying else (256,):
            ids = torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(length))
            loss = model(ids, labels=ids, num_tokens=torch.tensor(100.0), return_logits=False)["loss"]
            loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
        assert all(name == name.replace("_orig_mod.", "") for name in model.state_dict())
    tolerance = {"float32": 1e-4, "bfloat16": 3e-2}[dtype]
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= tolerance * one.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.parametrize("isolated", [False, True])
def test_cuda_attention_matches_the_cpu(compile, isolated):
    torch.manual_seed(0)
    config = replace(SMALL, hidden_size=256, max_position_embeddings=256)  # heads of 64
    ids = torch.randint(0, 97, (2, 256))
    segments = (ids == 1).cumsum(1) if isolated else None
    results = []
    for device in (CPU, torch.device("cuda")):
        torch.manual_seed(0)
        model = TransformerLM(config).to(device).train()
        kind = "off" if device.type == "cpu" else compile
        prepare_for_training(model, replace(TRAINING, compile=kind, dtype="bfloat16"), device)
        batch = {"segment_ids": segments.to(device)} if isolated else {}
        loss = model(ids.to(device), labels=ids.to(device), return_logits=False, **batch)["loss"]
        loss.backward()
        results.append([loss.detach().cpu(), *(parameter.grad.cpu() for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= 0.05 * one.norm()
