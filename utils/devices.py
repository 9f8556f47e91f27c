"""Choose the device and the compute type, and find this process's rank.

device = resolve_device("auto")                  # the best available
dtype = choose_dtype("auto", device)             # bfloat16 on CUDA from Ampere on, float32 elsewhere
"""

import os
import platform
import re
from dataclasses import dataclass

import torch

from utils.errors import PipelineError

# Dense bf16 floating-point operations per second from the vendors' data sheets (without sparsity, float32 accumulation:
# on GeForce cards twice the shaders' float32 rate). The first name that matches whole words in the device name is used,
# so longer names come first. Laptop cards have different rates.
_PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A100": 312e12,
    "L4": 121e12,
    "A40": 150e12,
    "A10": 125e12,
    "RTX 5090": 209e12,
    "RTX 5080": 112.6e12,
    "RTX 5070 Ti": 87.9e12,
    "RTX 5070": 61.7e12,
    "RTX 5060 Ti": 47.4e12,
    "RTX 5060": 38.4e12,
    "RTX 4090": 165e12,
    "RTX 4080 SUPER": 104.4e12,
    "RTX 4080": 97.5e12,
    "RTX 4070 Ti SUPER": 88.2e12,
    "RTX 4070 Ti": 80.2e12,
    "RTX 4070 SUPER": 71.0e12,
    "RTX 4070": 58.3e12,
    "RTX 4060 Ti": 44.1e12,
    "RTX 4060": 30.2e12,
    "RTX 3090 Ti": 80.0e12,
    "RTX 3090": 71e12,
    "RTX 3080 Ti": 68.2e12,
    "RTX 3080": 59.5e12,
    "RTX 3070 Ti": 43.5e12,
    "RTX 3070": 40.6e12,
    "RTX 3060 Ti": 32.4e12,
    "RTX 3060": 25.5e12,
}


@dataclass(frozen=True)
class World:
    """This process's ranks in distributed training, as numbered by torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def current_world() -> World:
    """From torchrun's environment variables; one process if they are not set."""
    return World(*(int(os.environ.get(name, default)) for name, default in _WORLD_VARIABLES))


_WORLD_VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


def resolve_device(name: str) -> torch.device:
    """The device for `name` (``auto``, ``cuda``, ``cpu`` or ``mps``) in this process.

    Raises:
        PipelineError: the device is not available; the message suggests ``--device cpu``.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", _local_gpu())
    if name == "mps" and not torch.backends.mps.is_available():
        raise PipelineError("device mps: PyTorch found no Apple GPU; use --device cpu")
    return torch.device(name)


def _local_gpu() -> int:
    if not torch.cuda.is_available():
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "PyTorch found no NVIDIA GPU"
        raise PipelineError(f"device cuda: {reason}; use --device cpu (slow; for small models and tests)")
    local_rank = current_world().local_rank
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise PipelineError(
            f"device cuda: no GPU for process {local_rank} on this machine ({count} found); lower --nproc"
        )
    return local_rank


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute type for `name` (``auto``, ``float32``, ``bfloat16``) on `device`.

    Raises:
        PipelineError: bfloat16 on a GPU older than Ampere, which emulates it slowly and cannot compile it.
    """
    # By default, torch counts emulation as support.
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bfloat16" and not has_bfloat16:
        raise PipelineError(f"dtype bfloat16: {describe_device(device)} does not support it; set dtype to float32")
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bfloat16 else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def describe_device(device: torch.device) -> str:
    """A human-readable name: ``NVIDIA H100 80GB HBM3``, ``CPU (x86_64, 2 threads)``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a GPU, for model FLOPs utilization; None if unknown."""
    return peak_flops_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_of(name: str) -> float | None:
    """The same for a GPU name such as ``H100`` or ``RTX 4090``, which need not be in this machine."""
    if "laptop" in name.lower():
        return None
    found = (flops for known, flops in _PEAK_FLOPS.items() if re.search(rf"\b{known}\b", name, re.IGNORECASE))
    return next(found, None)


def known_gpus() -> list[str]:
    return list(_PEAK_FLOPS)


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: on the GPU, or main memory for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if platform.system() == "Darwin" else held * 1024


def free_memory(device: torch.device) -> int:
    """Free memory in bytes: on the GPU, or main memory for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(available, _linux_available_memory())
    return 8 * 1024**3  # macOS needs an extra package to find out; a part of the data rarely needs this much


def _linux_available_memory() -> int:
    """Bytes that Linux can free without swapping, including the page cache; 0 on other systems."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0
