"""Require flash attention on CUDA: FlashAttention's or cuDNN's kernel, or an error that says why neither runs."""

import warnings
from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pipeline.modeling.config import ModelConfig
from utils.errors import PipelineError


def flash_kernels_only() -> AbstractContextManager[None]:
    """A context in which scaled_dot_product_attention runs in a flash kernel or raises RuntimeError."""
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION])


def check_flash_attention(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Test attention forward and backward with the model's head shape and length.

    Raises:
        PipelineError: neither kernel runs here; the message says why and suggests ``training.attention=any``.
    """
    length = min(4096, config.context_length)

    def heads(count: int) -> torch.Tensor:
        return torch.randn(1, count, length, config.head_dim, device=device, dtype=dtype, requires_grad=True)

    q = heads(config.num_attention_heads)
    k = heads(config.num_key_value_heads)
    v = heads(config.num_key_value_heads)
    grouped = config.num_key_value_heads != config.num_attention_heads
    with warnings.catch_warnings(record=True) as reasons, flash_kernels_only():
        warnings.simplefilter("always")
        try:
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            torch.autograd.grad(attended.sum(), (q, k, v))
        except RuntimeError as error:
            messages = [str(reason.message) for reason in reasons]
            raise PipelineError(_explanation(config, device, dtype, messages, error)) from None


def _explanation(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, reasons: list[str], error: RuntimeError
) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    shape = f"{name}, heads of {config.head_dim}, {str(dtype).removeprefix('torch.')}"
    found = "; ".join(reason.split(" (Triggered")[0] for reason in reasons) or str(error).splitlines()[0]
    return (
        f"training.attention is flash, but neither flash nor cuDNN attention runs here ({shape}): {found}; "
        f"use --set training.attention=any for a slower kernel"
    )
