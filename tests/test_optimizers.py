"""Optimizers: assignment of weights, decay on matrices only, Muon compared with its definition."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.training.config import TrainingConfig
from pipeline.training.optimizers import Muon, _iterate, _iterate_gram, hidden_matrices, make_optimizers, orthogonalise
from utils.cast_linear import FusedLinear

CPU = torch.device("cpu")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embed_tokens": nn.Embedding(10, 8),
            "qkv_proj": FusedLinear(8, (8, 4, 4)),
            "o_proj": nn.Linear(8, 8, bias=False),
            "down_proj": nn.Linear(12, 8, bias=False),
            "norm": nn.LayerNorm(8),
            "lm_head": nn.Linear(8, 10, bias=False),
        }
    )


def test_every_weight_has_one_optimizer_and_only_matrices_decay():
    for name in ("adamw", "muon"):
        model = small_model()
        optimizers = make_optimizers(model, replace(TrainingConfig(), optimizer=name), CPU)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = [parameter for group in groups for parameter in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
        for group in groups:
            assert {parameter.dim() >= 2 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_muon_takes_the_hidden_matrices_only():
    model = small_model()
    found = {id(parameter): sizes for parameter, sizes in hidden_matrices(model)}
    assert found == {
        id(model["qkv_proj"].weight): (8, 4, 4),
        id(model["o_proj"].weight): (8,),
        id(model["down_proj"].weight): (8,),
    }
    adamw, muon = make_optimizers(model, replace(TrainingConfig(), optimizer="muon"), CPU)
    assert {id(p) for group in muon.param_groups for p in group["params"]} == set(found)
    assert len([p for group in adamw.param_groups for p in group["params"]]) == 4


def test_an_orthogonalised_matrix_has_singular_values_near_one():
    torch.manual_seed(1)
    for shape in ((16, 16), (48, 16), (16, 40)):
        matrices = torch.randn(3, *shape)
        values = torch.linalg.svdvals(orthogonalise(matrices) / (0.2 * max(shape) ** 0.5))
        assert values.min() > 0.5
        assert values.max() < 1.35
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        exact = left @ right
        close = orthogonalise(matrices) / (0.2 * max(shape) ** 0.5)
        cosine = (exact * close).sum() / exact.norm() / close.norm()
        assert cosine > 0.95, "the direction is that of the exact factor"


@pytest.mark.parametrize("kind", ["random", "nearly singular"])
def test_both_newton_schulz_forms_agree(kind):
    torch.manual_seed(2)
    x = torch.randn(2, 16, 48)
    if kind == "nearly singular":
        x = torch.randn(2, 16, 2) @ torch.randn(2, 2, 48) + 1e-3 * x
    x /= x.norm(dim=(-2, -1), keepdim=True)
    assert (_iterate(x) - _iterate_gram(x)).norm() < 1e-3 * _iterate(x).norm()


def test_muon_step_matches_its_definition_per_fused_product():
    model = small_model()
    weight = model["qkv_proj"].weight
    before, gradients = weight.detach().clone(), [torch.randn_like(weight) for _ in range(2)]
    muon = Muon([(weight, (8, 4, 4))], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, buffer = before.clone(), torch.zeros_like(before)
    for gradient in gradients:
        weight.grad = gradient.clone()
        muon.step()
        buffer = 0.9 * buffer + 0.1 * gradient
        direction = 0.1 * gradient + 0.9 * buffer
        update = torch.cat([orthogonalise(part[None])[0] for part in direction.split((8, 4, 4))])
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * update
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-3, atol=1e-5)


def test_muon_resumes_from_its_state():
    runs = []
    for interrupted in (False, True):
        model = small_model()
        make = lambda model=model: Muon(hidden_matrices(model), lr=0.1)  # noqa: E731
        muon = make()
        for step in range(4):
            if interrupted and step == 2:
                state = muon.state_dict()
                muon = make()
                muon.load_state_dict(state)
            for parameter, _ in hidden_matrices(model):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            muon.step()
        runs.append(model["qkv_proj"].weight.detach().clone())
    assert torch.equal(*runs)
