"""The optimizer that the configuration names, with weight decay on matrices only."""

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from utils.config_sections import TrainingConfig


def make_optimizers(model: nn.Module, config: TrainingConfig, device: torch.device) -> list[Optimizer]:
    """AdamW over all weights."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [_adamw(parameters, config, device)]


def _adamw(parameters: list[nn.Parameter], config: TrainingConfig, device: torch.device) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019); norms and other vectors are not decayed towards zero."""
    groups = [
        {"params": [each for each in parameters if each.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
        fused=device.type in ("cuda", "cpu"),
    )
