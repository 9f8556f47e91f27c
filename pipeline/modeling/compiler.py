"""Check whether torch.compile can run on a device, without importing torch."""

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def compiler_problem(device: "torch.device") -> str:
    """Why torch.compile cannot run on `device`, or an empty string."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton is not installed"
    if device.type == "cpu":
        return cpp_compiler_problem()
    return f"torch.compile does not pay off on {device.type}"


def cpp_compiler_problem() -> str:
    """Why code for the CPU cannot be compiled, or an empty string."""
    compiler = os.environ.get("CXX") or "g++"
    found = shutil.which(compiler) or shutil.which("clang++")
    return "" if found else "no C++ compiler (g++) is installed"
