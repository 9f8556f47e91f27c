"""Find missing packages and say how to install them. Uses the standard library only.

missing_packages(("numpy", "torch"))            # those that cannot be imported
problem = missing_package_problem(error)        # one line for an ImportError, or None if it is our own bug
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def is_installed(package: str) -> bool:
    """Whether `package` is installed, without importing it.

    Namespace packages do not count: `tokenizers/` in the checkout is not the package of that name.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def missing_packages(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if not is_installed(package)]


def missing_package_problem(error: ImportError) -> str | None:
    """How to install the missing package of a failed import, or None if the module is our own."""
    package = (error.name or "").partition(".")[0]
    if not package or package in sys.stdlib_module_names or _is_ours(package):
        return None
    if not isinstance(error, ModuleNotFoundError) and is_installed(package):
        return None  # the package exists, but a name in it does not
    script = Path(sys.argv[0]).name
    script = script if (CHECKOUT / script).is_file() else "main.py"
    return (
        f"the package {error.name} is not installed for {sys.executable}; run: make install, then: "
        f".venv/bin/python {script}"
    )


def _is_ours(package: str) -> bool:
    return (CHECKOUT / f"{package}.py").exists() or (CHECKOUT / package / "__init__.py").exists()
