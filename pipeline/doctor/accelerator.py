"""Check the GPU for training: whether it exists, its driver, and its capabilities.

check_accelerator(config)       # uses nvidia-smi, because importing torch takes seconds
"""

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.configuration import CHECKOUT, Config
from pipeline.doctor.findings import Finding, note, ok, problem
from pipeline.doctor.packages import read_pins, torch_cuda, version_of
from pipeline.modeling.memory_estimate import training_memory
from pipeline.training.config import TrainingConfig
from utils.terminal import format_bytes

ON_CPU = "train on the CPU: --set training.device=cpu (slow, for small models)"
AMPERE = 8.0  # the first generation with bfloat16 and FlashAttention 2
# The oldest Linux driver for each major version of CUDA, from NVIDIA's table for minor version compatibility.
_OLDEST_DRIVER = {11: 450.80, 12: 525.60, 13: 580.65}
_QUERY = "name,driver_version,memory.total,memory.free,compute_cap"
_SECONDS = 2.0
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as described by its driver; memory in bytes."""

    name: str
    driver: str
    memory: int
    free: int
    capability: float

    @property
    def has_bfloat16(self) -> bool:
        return self.capability >= AMPERE

    def describe(self) -> str:
        abilities = "bfloat16 and flash attention" if self.has_bfloat16 else "neither bfloat16 nor flash attention"
        memory = f"{format_bytes(self.memory)}, {format_bytes(self.free)} free"
        return f"{self.name}, {memory}, driver {self.driver}, {abilities}"


def check_accelerator(config: Config) -> list[Finding]:
    device = config.training.device
    if device == "mps":
        return [_apple_gpu()]
    gpus = find_gpus()
    if device == "cpu":
        unused = f"; {gpus[0].name} is not used: --set training.device=cuda" if gpus else ""
        return [ok("gpu", f"not needed: training.device is cpu{unused}")]
    if not gpus and not shutil.which("nvidia-smi") and DRIVER.exists():
        found = "there is an NVIDIA driver without nvidia-smi, so the GPU cannot be examined this way"
        return [note("gpu", found, "run: python3 main.py doctor --gpu")]
    if not gpus:
        return [problem("gpu", f"training.device is cuda, but {_absence()}", ON_CPU)]
    return [ok("gpu", gpu.describe()) for gpu in gpus] + gpu_problems(gpus[0], config, cuda=torch_cuda())


def gpu_problems(gpu: Gpu, config: Config, *, cuda: str | None) -> list[Finding]:
    """Problems with training on `gpu` with a torch built for CUDA `cuda`."""
    findings = _driver_problem(gpu, cuda) + _kernel_problems(gpu, config.training)
    needed = memory_needed(config)
    if needed > 1.1 * gpu.memory:
        findings.append(problem("gpu", f"a step needs about {format_bytes(needed)}; the GPU has less", lower(config)))
    elif needed > gpu.free:
        found = f"a step needs about {format_bytes(needed)}, but only {format_bytes(gpu.free)} are free"
        findings.append(note("gpu", found, f"stop other programs on the GPU, or {lower(config)}"))
    return findings


def memory_needed(config: Config) -> int:
    """The memory of a training step in bytes, estimated like in `model.py --summary`."""
    training = config.training
    on_gpu = training.device == "cuda"
    size = 2 if training.dtype == "bfloat16" or (training.dtype == "auto" and on_gpu) else 4
    return step_memory(config, size)


def step_memory(config: Config, bytes_per_value: int) -> int:
    memory = training_memory(
        config.model,
        batch_size=config.training.batch_size,
        length=config.dataset.window,
        bytes_per_value=bytes_per_value,
    )
    return sum(memory.values())


def lower(config: Config) -> str:
    """Settings that halve the batch and keep the size of the step."""
    training = config.training
    rows = max(1, training.batch_size // 2)
    return (
        f"--set training.batch_size={rows} "
        f"--set training.gradient_accumulation_steps={2 * training.gradient_accumulation_steps}"
    )


def _driver_problem(gpu: Gpu, cuda: str | None) -> list[Finding]:
    if cuda is None and version_of("torch"):
        pin = read_pins(CHECKOUT / "requirements.txt")["torch"]
        remedy = f"install the CUDA build: python -m pip install --force-reinstall torch=={pin}"
        return [problem("gpu", "training.device is cuda, but this torch was built without CUDA", remedy)]
    oldest = _OLDEST_DRIVER.get(int(cuda.partition(".")[0])) if cuda else None
    found = re.match(r"\d+(\.\d+)?", gpu.driver)
    if oldest is None or found is None or float(found[0]) >= oldest:
        return []
    problem_text = f"driver {gpu.driver} is too old for a torch built for CUDA {cuda}; expected {oldest:.2f} or newer"
    return [problem("gpu", problem_text, "update the NVIDIA driver")]


def _kernel_problems(gpu: Gpu, training: TrainingConfig) -> list[Finding]:
    findings = []
    old = f"{gpu.name} (compute capability {gpu.capability:.1f}, expected 8.0 or newer)"
    if training.dtype == "bfloat16" and not gpu.has_bfloat16:
        findings.append(
            problem("gpu", f"training.dtype is bfloat16, unsupported by {old}", "--set training.dtype=float32")
        )
    if training.attention == "flash" and not gpu.has_bfloat16:
        findings.append(
            problem(
                "gpu",
                f"training.attention is flash, unsupported by {old}",
                "--set training.attention=any",
            )
        )
    elif training.attention == "flash" and training.dtype == "float32":
        remedy = "--set training.attention=any, or --set training.dtype=bfloat16"
        findings.append(problem("gpu", "flash attention does not support float32 (training.dtype)", remedy))
    return findings


def find_gpus() -> list[Gpu]:
    """All NVIDIA GPUs listed by nvidia-smi; none if it is missing or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for gpu in map(_parse, answer.splitlines()) if gpu]


def _parse(line: str) -> Gpu | None:
    """Parse a line from nvidia-smi, with memory in MiB; None for any other line."""
    fields = [field.strip() for field in line.split(",")]
    try:
        name, driver, total, free, capability = fields
        return Gpu(name, driver, int(total) << 20, int(free) << 20, float(capability))
    except ValueError:
        return None


def _absence() -> str:
    if shutil.which("nvidia-smi"):
        return "nvidia-smi lists no GPU, so its driver does not work (run: nvidia-smi)"
    return "no NVIDIA driver is installed (nvidia-smi)"


def _apple_gpu() -> Finding:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ok("gpu", "Apple GPU")
    found = f"training.device is mps, but this is {platform.system()} on {platform.machine()}, expected an Apple GPU"
    return problem("gpu", found, ON_CPU)
