"""Whether torch.compile can run on a device."""

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    pass


def compiler_problem(device: torch.device) -> str:
    """Why torch.compile cannot run on `device`, or an empty string."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton is not installed"
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or "g++"
        found = shutil.which(compiler) or shutil.which("clang++")
        return "" if found else "no C++ compiler (g++) is installed"
    return f"torch.compile does not pay on {device.type}"
