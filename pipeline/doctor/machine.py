"""Check the processor and its instruction sets, the C++ compiler, and the memory."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from pipeline.configuration import Config
from pipeline.doctor.accelerator import lower, memory_needed
from pipeline.doctor.findings import Finding, note, ok, problem
from pipeline.modeling.compiler import cpp_compiler_problem
from utils.processes import available_cores
from utils.terminal import format_bytes

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
# The common name of an instruction set, and its flag in /proc/cpuinfo on x86 and ARM.
_INSTRUCTION_SETS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 bf16": "avx512_bf16",
    "AMX bf16": "amx_bf16",
    "NEON": "asimd",
    "SVE": "sve",
    "ARM bf16": "bf16",
}
_WITH_BFLOAT16 = {"AVX-512 bf16", "AMX bf16", "ARM bf16"}


def check_processor(config: Config, *, information: Path = CPU_INFO) -> list[Finding]:
    name, sets = read_processor(information)
    cores = f"{available_cores()} cores"
    abilities = ", ".join(sets) or "instruction sets not known"
    missing = " without bfloat16 instructions" if sets and not _WITH_BFLOAT16.intersection(sets) else ""
    findings = [ok("processor", f"{name}, {cores}, {abilities}{missing}")]
    on_cpu = config.training.device == "cpu"
    if on_cpu and config.training.dtype == "bfloat16" and missing:
        findings.append(
            note("processor", "training.dtype is bfloat16, which is emulated here", "--set training.dtype=float32")
        )
    if on_cpu and "AVX2" not in sets and platform.machine() == "x86_64":
        findings.append(note("processor", "PyTorch is several times slower without AVX2", "use another machine"))
    return findings


def read_processor(information: Path) -> tuple[str, list[str]]:
    """The processor's name and instruction sets, according to Linux."""
    name = platform.processor() or platform.machine()
    if not information.exists():
        return name, []
    lines = dict(_pairs(information.read_text(encoding="utf-8", errors="replace")))
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    return lines.get("model name", name), [shown for shown, flag in _INSTRUCTION_SETS.items() if flag in flags]


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in lines]


def check_compiler(config: Config) -> list[Finding]:
    """Check the C++ compiler and Python's headers, both needed for torch.compile."""
    missing = cpp_compiler_problem()
    if not missing:
        compiler = os.environ.get("CXX") or "g++"
        return [ok("compiler", f"C++ compiler {compiler} and Python's headers, for torch.compile")]
    remedy = "install them (apt-get install g++ python3-dev)"
    modes = {"training.compile": config.training.compile, "generation.compile": config.generation.compile}
    demanding = [key for key, mode in modes.items() if mode == "on"]
    if demanding:
        return [problem("compiler", f"{demanding[0]} is on, but {missing}", f"{remedy}, or --set {demanding[0]}=off")]
    return [note("compiler", f"{missing}, so nothing is compiled and everything runs slower", remedy)]


def check_memory(config: Config, *, information: Path = MEMORY_INFO) -> list[Finding]:
    memory = read_memory(information)
    if not memory:
        return [ok("memory", "its size is unknown on this system")]
    total, available = memory["MemTotal"], memory["MemAvailable"]
    found = f"{format_bytes(total)}, {format_bytes(available)} free"
    if config.training.device != "cpu":
        return [ok("memory", found)]
    needed = memory_needed(config)
    step = f"a training step needs about {format_bytes(needed)}"
    if needed > 1.1 * total:
        return [problem("memory", f"{found}, but {step}", lower(config))]
    if needed > available:
        return [note("memory", f"{found}, but {step}", f"close other programs, or {lower(config)}")]
    return [ok("memory", f"{found}; {step}")]


def read_memory(information: Path) -> Mapping[str, int]:
    """Bytes by Linux's names; empty on other systems."""
    if not information.exists():
        return {}
    pairs = _pairs(information.read_text(encoding="ascii"))
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if value.endswith("kB")}
