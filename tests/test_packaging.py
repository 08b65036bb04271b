"""What is shipped: two packages with their data, a lock that fits, no trace of a workplace."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
IGNORED = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]

#: The platforms that tfx-bsl has wheels for.
ENVIRONMENTS = [
    {"python_version": minor, "python_full_version": f"{minor}.9", **platform}
    for minor in ("3.11", "3.12", "3.13")
    for platform in (
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    )
]


def source_files() -> Iterator[Path]:
    """Yield the project's files, without those that git ignores."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if not is_ignored(name)]
        yield from (Path(folder, name) for name in names if not is_ignored(name))


def is_ignored(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in IGNORED)


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> list[str]:
    """Build the wheel from a copy, for setuptools takes up leftovers of earlier builds."""
    copy = tmp_path_factory.mktemp("project")
    for path in source_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "built"],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (wheel,) = (copy / "built").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel_names):
    tops = {name.split("/")[0] for name in wheel_names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline", "transforms"}
    assert len(tops) == 3


def test_the_wheel_holds_every_file_of_the_packages_with_their_data(wheel_names):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in source_files()
        if path.relative_to(ROOT).parts[0] in ("pipeline", "transforms")
    }

    assert {name for name in wheel_names if ".dist-info/" not in name} == expected
    assert {"pipeline/py.typed", "transforms/py.typed"} <= expected
    assert any(name.endswith(".npz") for name in expected)


def test_folders_that_are_no_packages_do_not_shadow_one():
    inside = [path.relative_to(ROOT) for path in source_files() if path.name == "__init__.py"]

    assert {path.parts[0] for path in inside} == {"pipeline", "transforms"}


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    return [each for each in requirements if canonical(each.name) != project["name"]]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unsatisfied(requirements: list[Requirement], lock: str) -> list[str]:
    """Return what the lock does not give, or gives in a version that is not allowed."""
    pins = [Requirement(line) for line in lock.splitlines() if not line.startswith("#")]
    problems = []
    for changes in ENVIRONMENTS:
        environment = {**default_environment(), **changes}
        locked = {
            canonical(pin.name): next(iter(pin.specifier)).version
            for pin in pins
            if pin.marker is None or pin.marker.evaluate(environment)
        }
        for each in requirements:
            if each.marker is not None and not each.marker.evaluate(environment):
                continue
            version = locked.get(canonical(each.name))
            if version is None or not each.specifier.contains(version, prereleases=True):
                problems.append(f"{each} has {version} on {changes}")
    return problems


def test_the_lock_satisfies_every_direct_requirement():
    assert not unsatisfied(direct_requirements(), (ROOT / "requirements.lock").read_text())


@pytest.mark.parametrize(
    "drifted",
    [
        "numpy>=99",
        "no-such-package",
        # Locked for Linux alone.
        "nvidia-nccl-cu12",
    ],
)
def test_a_lock_that_lags_behind_is_noticed(drifted):
    assert unsatisfied([Requirement(drifted)], (ROOT / "requirements.lock").read_text())


def test_no_file_names_a_machine_or_a_registry():
    traces = re.compile(r"/(?:root|home|Users)/\w|(?<!no-emit-)(?:extra-)?index[-_]url\b")
    found = []
    for path in source_files():
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in traces.findall(text)]

    assert not found
