"""The types that exported weights may have."""

from typing import TYPE_CHECKING

from utils.errors import PipelineError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def torch_dtype(name: str) -> "torch.dtype":
    """The type called `name`.

    Raises:
        PipelineError: it is not in `DTYPES`.
    """
    import torch

    if name not in DTYPES:
        raise PipelineError(f"dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
