"""Components that a user may do without, and CI may not."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NoReturn

import pytest


def require(module: str, install: str) -> ModuleSpec:
    """Return where a module lies; without it a test fails in CI, and is skipped elsewhere.

    Args:
        module: the top-level package.
        install: what brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        _do_without(f"{module} is not installed; {install}")
    return spec


def require_environment(folder: Path, finished: str, what: str, install: str) -> Path:
    """Return the interpreter of an environment of its own; else fail or skip as `require`.

    Args:
        folder: the virtual environment.
        finished: the file in it that is written last.
        what: it is for, such as the BigQuery emulator.
        install: what builds it.
    """
    if not (folder / finished).exists():
        _do_without(f"{what} is not installed; {install}")
    return folder / "bin" / "python"


def require_program(name: str, install: str) -> str:
    """Return a program of this environment, or of the path; else fail or skip as `require`."""
    program = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        _do_without(f"{name} is not installed; {install}")
    return program


def require_jars(folder: Path) -> Path:
    """Return a folder of jars that `make engines` fills; else fail or skip as `require`."""
    if not (folder / ".installed").exists():
        _do_without(f"the jars of {folder.name} are not here; run `make engines`")
    return folder


def require_java() -> str:
    """Return the program of a Java 17; else fail or skip as `require`."""
    java = require_program("java", "install Java 17")
    version = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', version.stderr)
    if found is None or found[1] != "17":
        _do_without(f"Java 17 is needed, and {java} is another one; install it, first in PATH")
    return java


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI must have it)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
