"""The chunked head and loss have the value and gradients of the plain version."""

import pytest
import torch

from pipeline.modeling import head_loss
from pipeline.modeling.head_loss import IGNORED, cross_entropy_sum, head_loss_sum


def inputs(rows: int, *, dtype=torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 32).to(dtype).requires_grad_()
    weight = (torch.randn(301, 32) * 0.5).requires_grad_()
    targets = torch.randint(0, 301, (rows,))
    targets[::5] = IGNORED
    return hidden, weight, targets


def plain(hidden, weight, targets):
    return cross_entropy_sum(hidden @ weight.to(hidden.dtype).T, targets)


def value_and_gradients(loss, hidden, weight, targets):
    hidden.grad = weight.grad = None
    value = loss(hidden, weight, targets) / 7.0
    value.backward()
    return value.detach(), hidden.grad.float(), weight.grad


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_chunked_loss_equals_the_plain_loss(rows, monkeypatch):
    monkeypatch.setitem(head_loss._HELD_ROWS, "cpu", 64)
    monkeypatch.setitem(head_loss._EAGER_ROWS, "cpu", 16)
    tensors = inputs(rows)
    for ours, theirs in zip(
        value_and_gradients(head_loss_sum, *tensors), value_and_gradients(plain, *tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_as_accurate_as_the_plain_loss(monkeypatch):
    monkeypatch.setitem(head_loss._HELD_ROWS, "cpu", 64)
    monkeypatch.setitem(head_loss._EAGER_ROWS, "cpu", 16)
    hidden, weight, targets = inputs(500, dtype=torch.bfloat16)
    exact_hidden = hidden.detach().float().requires_grad_()
    exact = value_and_gradients(plain, exact_hidden, weight, targets)
    ours = value_and_gradients(head_loss_sum, hidden, weight, targets)
    theirs = value_and_gradients(plain, hidden, weight, targets)
    for name, a, b, c in zip(("value", "hidden", "weight"), ours, theirs, exact, strict=True):
        our_error, their_error = (a - c).norm() / c.norm(), (b - c).norm() / c.norm()
        assert our_error < max(1.5 * their_error, 1e-4), name
        assert our_error < 0.01, name


def test_a_sure_prediction_keeps_its_small_gradient_in_bfloat16():
    hidden, weight = torch.eye(4, 32).bfloat16().requires_grad_(), torch.zeros(301, 32)
    weight[5] = 12.0  # probability of token 5: about 0.998
    weight.requires_grad_()
    targets = torch.full((4,), 5)
    ours = value_and_gradients(head_loss_sum, hidden, weight, targets)
    exact = value_and_gradients(plain, hidden.detach().float().requires_grad_(), weight, targets)
    for a, c in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, c, rtol=0.02, atol=1e-5)


def test_large_logits_and_rows_without_a_target():
    hidden, weight, targets = inputs(10)
    with torch.no_grad():
        hidden *= 1000
    targets[:] = IGNORED
    targets[3] = 5
    value, hidden_gradient, weight_gradient = value_and_gradients(head_loss_sum, hidden, weight, targets)
    expected = value_and_gradients(plain, hidden, weight, targets)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(weight_gradient, expected[2], rtol=1e-4, atol=1e-3)
    assert hidden_gradient[torch.arange(10) != 3].abs().sum() == 0


def test_it_never_holds_all_logits():
    """The largest tensor kept for the backward pass is the head's gradient."""
    hidden, weight, targets = inputs(5000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head_loss_sum(hidden, weight, targets)
    assert max(kept) <= 5000 * 32


def test_without_gradients_only_the_value_is_computed():
    hidden, weight, targets = inputs(100)
    with torch.no_grad():
        torch.testing.assert_close(head_loss_sum(hidden, weight, targets), plain(hidden, weight, targets))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 1100, 4500])
def test_the_compiled_kernels_give_the_same(rows):
    tensors = inputs(rows)
    compiled = value_and_gradients(lambda *each: head_loss_sum(*each, compiled=True), *tensors)
    for ours, theirs in zip(compiled, value_and_gradients(plain, *tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
