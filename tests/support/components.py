"""Components that a user may do without, and CI may not."""

import importlib.util
import os
from importlib.machinery import ModuleSpec

import pytest


def require(module: str, install: str) -> ModuleSpec:
    """Return where a module lies; without it a test fails in CI, and is skipped elsewhere.

    Args:
        module: the top-level package.
        install: what brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        reason = f"{module} is not installed; {install}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI must have it)", pytrace=False)
        pytest.skip(reason, allow_module_level=True)
    return spec
