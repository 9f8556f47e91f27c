"""Find missing packages, and say what to run to install them. Uses the standard library only.

missing_packages(("numpy", "torch"))            # those that importing would not find
problem = missing_package_problem(error)        # of an ImportError: one line, or None if it is a bug of ours
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def is_installed(package: str) -> bool:
    """Whether importing `package` would find its code; nothing is imported.

    A folder without code is found too, as a namespace: `tokenizers/` in the checkout is not the package of that name.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def missing_packages(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if not is_installed(package)]


def missing_package_problem(error: ImportError) -> str | None:
    """What to do about an import of a missing package; None if the module should have been there."""
    package = (error.name or "").partition(".")[0]
    if not package or package in sys.stdlib_module_names or _is_ours(package):
        return None
    if not isinstance(error, ModuleNotFoundError) and is_installed(package):
        return None  # the package is there, a name in it is not
    script = Path(sys.argv[0]).name
    script = script if (CHECKOUT / script).is_file() else "main.py"
    return (
        f"the package {error.name} is not installed for {sys.executable}; run: make install, then: "
        f".venv/bin/python {script}"
    )


def _is_ours(package: str) -> bool:
    return (CHECKOUT / f"{package}.py").exists() or (CHECKOUT / package / "__init__.py").exists()
