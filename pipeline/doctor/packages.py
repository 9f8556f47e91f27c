"""Check Python, the installed packages against their pins, and the torch build, without importing anything.

check_python()
check_packages(pins_file=Path("requirements.txt"))
"""

import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pipeline.configuration import CHECKOUT, Config
from pipeline.doctor.findings import Finding, note, ok, problem

OLDEST_PYTHON = (3, 11)
# Imported only by benchmark, serve and export; training works without them.
AFTER_TRAINING = {
    *("datasets", "evaluate", "rouge-score", "sacrebleu", "fastapi", "uvicorn", "prometheus-client", "transformers"),
    *("safetensors", "gguf", "matplotlib"),
}
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s#]+)")
_RANGE = re.compile(r'"([A-Za-z0-9_.-]+)((?:[<>=]+[0-9.]+,?)+)"')
_SHOWN = 4


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> list[Finding]:
    name = ".".join(map(str, version))
    place = f"{name} on {platform.system()} {platform.machine()}, {sys.executable}"
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [problem("python", f"{place}; expected {oldest} or newer", "run: make install PYTHON=python3.12")]
    return [ok("python", place)]


def check_packages(
    pins_file: Path = CHECKOUT / "requirements.txt", ranges_file: Path = CHECKOUT / "pyproject.toml"
) -> list[Finding]:
    """Check for missing packages and versions that differ from the pins."""
    pins = read_pins(pins_file)
    ranges = read_ranges(ranges_file)
    installed = {name: version_of(name) for name in pins}
    missing = [name for name, version in installed.items() if version is None]
    found = {name: version.partition("+")[0] for name, version in installed.items() if version}
    unknown = [name for name, version in found.items() if not in_range(version, ranges.get(name, ""))]
    other = [name for name, version in found.items() if version != pins[name] and name not in unknown]
    findings = _missing(missing, pins) + _unknown(unknown, found, ranges)
    if other:
        versions = shortened(f"{name} {found[name]} (pinned {pins[name]})" for name in other)
        findings.append(note("packages", f"different from the pins: {versions}; likely to work", "run: make install"))
    return findings or [ok("packages", f"all {len(pins)} as pinned in {pins_file.name}")]


def check_tracker(config: Config) -> list[Finding]:
    """Check the package of `training.tracker`, which has no pin because it is optional."""
    name = config.training.tracker
    if name == "none":
        return []
    version = version_of(name)
    if version is None:
        remedy = f"run: {sys.executable} -m pip install {name}, or pass --set training.tracker=none"
        return [problem("tracker", f"the package {name} is not installed", remedy)]
    return [ok("tracker", f"{name} {version}, project {config.training.tracker_project}")]


def _missing(missing: list[str], pins: dict[str, str]) -> list[Finding]:
    needed = [name for name in missing if name not in AFTER_TRAINING]
    verb = "is" if len(missing) == 1 else "are"
    found = f"{shortened(f'{name} {pins[name]}' for name in needed + [n for n in missing if n not in needed])} {verb}"
    if needed:
        return [problem("packages", f"{found} not installed for {sys.executable}", install_command())]
    if missing:
        return [note("packages", f"{found} not installed; needed to benchmark, serve or export", install_command())]
    return []


def _unknown(names: list[str], found: dict[str, str], ranges: dict[str, str]) -> list[Finding]:
    if not names:
        return []
    versions = shortened(f"{name} {found[name]} (expected {ranges[name]})" for name in names)
    status = note if AFTER_TRAINING.issuperset(names) else problem
    return [status("packages", f"untested versions: {versions}", install_command())]


def install_command() -> str:
    """The command that installs the packages, or that runs the Python that has them."""
    environment = CHECKOUT / ".venv"
    if (environment / "bin" / "python").exists() and Path(sys.prefix) != environment:
        return "run: make install, then: .venv/bin/python doctor.py"
    return "run: make install"


def shortened(names: Iterable[str]) -> str:
    """The first few names and the number of others."""
    listed = list(names)
    others = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {others} others" if others > 0 else "")


def read_pins(path: Path) -> dict[str, str]:
    """``{"torch": "2.13.0", …}`` of a requirements file."""
    matches = (_PIN.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {match[1]: match[2] for match in matches if match}


def read_ranges(path: Path) -> dict[str, str]:
    """``{"torch": ">=2.11,<3", …}`` of pyproject.toml."""
    return {match[1]: match[2] for match in _RANGE.finditer(path.read_text(encoding="utf-8"))}


def version_of(package: str) -> str | None:
    """The installed version, or None if the package or its code is missing (metadata may survive a removal)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def in_range(version: str, bounds: str) -> bool:
    """Whether `version` is within bounds such as ``>=2.11,<3``."""
    found = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        limit = _numbers(bound)
        if bound.startswith(">=") and found < limit:
            return False
        if bound.startswith("<") and found >= limit:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def check_torch() -> list[Finding]:
    """The installed torch, and what it was built for."""
    version = version_of("torch")
    if version is None:
        return []  # already reported with the packages
    cuda = torch_cuda()
    return [ok("torch", f"{version}, built {f'for CUDA {cuda}' if cuda else 'without CUDA'}")]


def torch_cuda() -> str | None:
    """The CUDA version of the installed torch, from its version.py, because importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("version.py")
    if not path.exists():
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else None
