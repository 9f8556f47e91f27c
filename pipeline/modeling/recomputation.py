"""Activation checkpointing: a block keeps only its input and runs again in the backward pass (Chen et al. 2016,
arXiv:1604.06174)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.modeling.attention_kernels import Mask
from pipeline.modeling.flash_attention import flash_kernels_only


def run_again_in_backward(block: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Mask | None) -> Tensor:
    """``block(x, rotation, mask=mask)``, with activations recomputed in the backward pass."""
    y: Tensor
    if torch.compiler.is_compiling():  # both passes are traced together, so the second cannot choose a different kernel
        y = checkpoint(block, x, rotation, mask=mask, use_reentrant=False)
    else:
        y = checkpoint(block, x, rotation, mask=mask, use_reentrant=False, context_fn=_same_kernels_again)
    return y


def _same_kernels_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for both passes, so that the recomputation may use the same kernels as the first pass, which starts
    now."""
    any_kernel = torch.backends.cuda.math_sdp_enabled()  # type: ignore[no-untyped-call]  # untyped in torch
    return nullcontext(), nullcontext() if any_kernel else flash_kernels_only()
