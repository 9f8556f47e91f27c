"""How a model runs: compute type, attention kernels, compiled or not. Passed to `TransformerLM.run_as`.

    model.run_as(Execution(compute_dtype=torch.bfloat16, compiled=True))

It affects speed and rounding, never what is computed, and is not stored in checkpoints.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.modeling.attention_kernels import segment_mask
from pipeline.modeling.flash_attention import flash_kernels_only


@dataclass(frozen=True)
class Execution:
    """The execution settings of a model. The default is for inference: the weights' own type, any kernel."""

    compute_dtype: torch.dtype | None = None  # of the activations; None: the weights' own
    flash_only: bool = False  # in training, attention must run in a flash kernel
    compiled: bool = False  # use torch.compile for forward passes without a cache
    varying_lengths: bool = False  # compile once for all lengths instead of once per length

    def training_kernels(self) -> AbstractContextManager[None]:
        """A context in which attention uses only the kernels allowed in training."""
        return flash_kernels_only() if self.flash_only else nullcontext()

    def compile(self, decoder: nn.Module) -> Callable[..., Tensor]:
        """The decoder's forward, compiled if configured."""
        if not self.compiled:
            return decoder.forward
        forward = torch.compile(decoder.forward, dynamic=self.varying_lengths)
        if self.varying_lengths:
            # On CUDA, torch 2.13 cannot compile the creation of a mask with a dynamic number of blocks (CantSplit).
            eager_mask = torch.compiler.disable(segment_mask)  # type: ignore[no-untyped-call]  # untyped in torch
            return partial(forward, make_mask=eager_mask)
        return forward
