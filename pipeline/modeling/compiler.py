"""Check whether torch.compile can run on a device, without importing torch."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
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
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return "no C++ compiler (g++) is installed"
    headers = Path(sysconfig.get_path("include"))  # the generated code includes them
    return "" if (headers / "Python.h").exists() else f"Python's headers are not in {headers} (python3-dev)"
