"""The optimizers: AdamW, or Muon for the hidden matrices and AdamW for the rest.

Weight decay applies to matrices only; for norms and other vectors, zero is not a sensible target.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.training.config import TrainingConfig
from utils.cast_linear import FusedLinear

_OUTER_NAMES = ("embed_tokens", "lm_head")  # rows are tokens, so these are not hidden matrices
# Quintic Newton-Schulz iteration: brings all singular values close to 1 in five rounds (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def make_optimizers(model: nn.Module, config: TrainingConfig, device: torch.device) -> list[Optimizer]:
    """Optimizers that together contain every trained weight exactly once."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return [_adamw(parameters, config, device)]
    hidden = hidden_matrices(model)
    inside = {id(parameter) for parameter, _ in hidden}
    return [
        _adamw([parameter for parameter in parameters if id(parameter) not in inside], config, device),
        Muon(hidden, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
    ]


def hidden_matrices(model: nn.Module) -> list[tuple[nn.Parameter, tuple[int, ...]]]:
    """The weight matrices between embedding and head, with the row counts of the products fused into them."""
    result: list[tuple[nn.Parameter, tuple[int, ...]]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad and not name.endswith(_OUTER_NAMES):
            sizes = tuple(module.sizes) if isinstance(module, FusedLinear) else (module.out_features,)
            result.append((cast(nn.Parameter, module.weight), sizes))
    return result


def _adamw(parameters: list[nn.Parameter], config: TrainingConfig, device: torch.device) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019)."""
    groups = [
        {"params": [weight for weight in parameters if weight.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in parameters if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
        fused=device.type in ("cuda", "cpu"),
    )


class Muon(Optimizer):
    """Orthogonalized momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    Updates are scaled by 0.2 sqrt(max(rows, columns)), so that their entries are about as large as AdamW's and the same
    weight decay works for both (Liu et al. 2025, "Muon is Scalable for LLM Training").

    Args:
        matrices: weights (rows, columns), each with the row counts of the products fused into it; products are
            orthogonalized separately.
    """

    def __init__(
        self,
        matrices: Iterable[tuple[nn.Parameter, tuple[int, ...]]],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        alike = defaultdict(list)
        for parameter, sizes in matrices:
            alike[parameter.shape, sizes].append(parameter)
        groups = [{"params": parameters, "sizes": sizes} for (_, sizes), parameters in alike.items()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(parameters, group)

    def _step_group(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        momentum: float = group["momentum"]
        rate: float = group["lr"]
        directions: list[Tensor] = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            gradient = cast(Tensor, parameter.grad)
            buffer.lerp_(gradient, 1 - momentum)
            directions.append(gradient.lerp(buffer, momentum))  # Nesterov momentum
        # All layers in one batch, for a few large products instead of many small ones.
        stacked = torch.stack(directions)  # (layers, rows, columns)
        parts = [orthogonalise(part) for part in torch.split(stacked, group["sizes"], dim=1)]
        for parameter, update in zip(parameters, torch.cat(parts, dim=1), strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update, alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices to `matrices` (…, R, C), scaled for `Muon`."""
    rows, columns = matrices.shape[-2:]
    # bfloat16 is accurate enough for a direction and fast on a GPU; CPUs without bfloat16 instructions emulate it.
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x.mT if rows > columns else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # all singular values at most 1
    x = _iterate(x) if x.dtype == torch.bfloat16 else _iterate_gram(x)
    x = x.mT if rows > columns else x
    scale: float = 0.2 * max(rows, columns) ** 0.5
    result: Tensor = x.to(matrices.dtype) * scale
    return result


def _iterate(x: Tensor) -> Tensor:
    """Newton-Schulz rounds as published: each multiplies `x` (…, R, C) by a polynomial of its Gram matrix."""
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _iterate_gram(x: Tensor) -> Tensor:
    """The same result from products of (…, R, R) only: half the time if C is 3 R. Needs float32."""
    gram = x @ x.mT
    factor = product = _polynomial(gram)
    for _ in range(_ROUNDS - 1):
        gram = factor @ gram @ factor  # polynomials of one matrix commute
        factor = _polynomial(gram)
        product = factor @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    result = b * gram + c * gram @ gram
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result
