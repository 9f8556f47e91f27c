"""How a model runs: compute type, attention kernels, compiled or not. One value, handed to `TransformerLM.run_as`.

    model.run_as(Execution(compute_dtype=torch.bfloat16, compiled=True))

It changes speed and rounding, never what is computed, and no checkpoint records it.
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
    """The execution settings of a model. The default is what inference takes: the weights' own type, any kernel."""

    compute_dtype: torch.dtype | None = None  # of the activations; None: the weights' own
    flash_only: bool = False  # in training, attention runs in a flash kernel or raises
    compiled: bool = False  # whatever runs without a cache goes through torch.compile
    varying_lengths: bool = False  # compiled once for every length, not once for each

    def training_kernels(self) -> AbstractContextManager[None]:
        """A context in which attention may use the kernels that training is allowed."""
        return flash_kernels_only() if self.flash_only else nullcontext()

    def compile(self, decoder: nn.Module) -> Callable[..., Tensor]:
        """The decoder's forward, compiled if the settings ask for it."""
        if not self.compiled:
            return decoder.forward
        forward = torch.compile(decoder.forward, dynamic=self.varying_lengths)
        if self.varying_lengths:
            # For CUDA, torch 2.13 cannot compile what makes a mask of any number of blocks (CantSplit).
            eager_mask = torch.compiler.disable(segment_mask)  # type: ignore[no-untyped-call]  # untyped in torch
            return partial(forward, make_mask=eager_mask)
        return forward
