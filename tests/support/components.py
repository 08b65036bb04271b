"""Components that a user may do without, and CI may not."""

import importlib.util
import os
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


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI must have it)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
