"""The Dockerfile, as far as it can be looked at without building it."""

import fnmatch
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from components import require_program

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORE = ROOT / "deploy" / "Dockerfile.dockerignore"
#: Continued lines joined, comments left out.
INSTRUCTIONS = [
    line
    for line in re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines()
    if line and not line.startswith("#")
]


def locked(name):
    (line,) = re.findall(rf"^{name}==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    return line


def sources():
    """What COPY takes from the repository."""
    for line in INSTRUCTIONS:
        if line.startswith("COPY ") and "--from" not in line:
            *copied, _ = line.split()[1:]
            yield from copied


def test_hadolint_finds_nothing():
    hadolint = require_program("hadolint", "pip install 'embed-images[dev]'")
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("source", list(sources()))
def test_what_is_copied_is_there_and_not_ignored(source):
    assert (ROOT / source).exists()
    # The last rule that fits decides.
    taken = True
    for rule in IGNORE.read_text().splitlines():
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!").removeprefix("/")
            if fnmatch.fnmatch(source.split("/")[0], pattern):
                taken = rule.startswith("!")
    assert taken


@pytest.mark.parametrize(
    "private", [".git", ".venv", "tests", "demo", "credentials.json", ".env", "nightly.yaml"]
)
def test_nothing_else_goes_into_the_image(private):
    rules = IGNORE.read_text().split("\n")
    assert "/*" in rules
    assert f"!/{private}" not in rules


def test_all_packages_are_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= set(sources())


def test_beam_is_that_of_the_lock():
    assert f"ARG BEAM_VERSION={locked('apache-beam')}" in INSTRUCTIONS


def test_the_list_of_requirements_is_made_of_the_package_and_its_extras(tmp_path):
    (line,) = (each for each in INSTRUCTIONS if "tomllib" in each)
    command = line.removeprefix("RUN ").partition(" && ")[0]
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True)
    listed = (tmp_path / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert listed == [*project["dependencies"], *extras["gcp"], *extras["gpu"]]


def test_both_programs_are_in_it_and_it_starts_as_a_worker():
    copied = " ".join(each for each in INSTRUCTIONS if each.startswith("COPY --from"))
    assert "/opt/apache/beam" in copied
    assert "/opt/google/dataflow/python_template_launcher" in copied
    assert json.loads(INSTRUCTIONS[-1].removeprefix("ENTRYPOINT ")) == ["/opt/apache/beam/boot"]
    # Not one that is part of a stage: `main.py` lies in the WORKDIR.
    assert "ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/embed-images/main.py" in INSTRUCTIONS
    assert "WORKDIR /opt/embed-images" in INSTRUCTIONS


def test_by_default_it_runs_without_rights():
    place = INSTRUCTIONS.index("USER ${IMAGE_USER}")
    assert "ARG IMAGE_USER=embed" in INSTRUCTIONS[:place]
    assert any(re.search(r"useradd --uid \d+ .*embed", each) for each in INSTRUCTIONS[:place])
    assert not [each for each in INSTRUCTIONS[place + 1 :] if each.startswith(("RUN", "USER"))]


def test_every_line_says_why():
    """A comment stands before each instruction, or before the ones that belong together."""
    commented = False
    for block in DOCKERFILE.read_text().split("\n\n"):
        commented = block.lstrip().startswith("#")
        assert commented or block.startswith("WORKDIR"), block


def test_the_base_brings_a_cuda_that_tensorflow_takes():
    """CUDA itself comes from the lock: the versions that TensorFlow's own extra allows."""
    (base,) = (each for each in INSTRUCTIONS if each.startswith("FROM nvidia/cuda:"))
    major = re.match(r"FROM nvidia/cuda:(\d+)\.", base)
    assert major is not None
    assert locked("nvidia-cuda-runtime-cu12").split(".")[0] == major[1] == "12"
    assert locked("nvidia-cudnn-cu12").split(".")[0] == "9"
