"""The Dockerfile, as far as it can be looked at without building it."""

import json
import re
import shlex
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


def is_taken(path):
    """Whether a path of the repository goes into the build: the last rule that fits decides."""
    taken = True
    for rule in IGNORE.read_text().splitlines():
        if rule and not rule.startswith("#"):
            parts = re.split(r"(\*\*/|\*)", rule.removeprefix("!").removeprefix("/"))
            meaning = {"**/": "(?:.*/)?", "*": "[^/]*"}
            pattern = "".join(meaning.get(part) or re.escape(part) for part in parts)
            # What holds for a folder holds for all that is in it.
            if re.fullmatch(f"{pattern}(?:/.*)?", path):
                taken = rule.startswith("!")
    return taken


@pytest.mark.parametrize("source", list(sources()))
def test_what_is_copied_is_there_and_not_ignored(source):
    assert (ROOT / source).exists()
    assert is_taken(source)


@pytest.mark.parametrize(
    "private",
    [
        *(".git/config", ".venv/bin/python", ".env", ".env.local", "nightly.yaml", "key.json"),
        *("tests/conftest.py", "demo/photos/a.jpg", "credentials.json", "a/b/credentials.json"),
        *("pipeline/__pycache__/run.pyc", "transforms/images/__pycache__/x.pyc"),
    ],
)
def test_nothing_else_goes_into_the_image(private):
    assert not is_taken(private)


def test_of_what_lies_in_the_repository_only_what_is_copied_goes_into_the_build():
    taken = {path.name for path in ROOT.iterdir() if is_taken(path.name)}
    assert taken == {source.split("/")[0] for source in sources()}


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
    """A comment stands right before each instruction."""
    before, continued = "", False
    for line in DOCKERFILE.read_text().splitlines():
        if line and not line.startswith("#") and not continued:
            assert re.match(r"# (?!hadolint)|# hadolint ignore", before), line
        before, continued = line, line.endswith("\\")


def test_only_locked_versions_are_installed_and_they_go_together():
    installs = [
        shlex.split(command)
        for line in INSTRUCTIONS
        for command in line.removeprefix("RUN ").split("&&")
        if "pip install" in command
    ]
    assert len(installs) == 2
    for words in installs:
        locked_or_nothing = {"--no-deps"} & set(words) or (
            words[words.index("--constraint") + 1] == "requirements.lock"
        )
        assert locked_or_nothing, words
    (last,) = (line for line in INSTRUCTIONS if "--no-deps" in line)
    assert last.partition("&&")[2].strip() == "pip check"


def test_workers_run_in_the_environment_of_the_image():
    assert "ENV PATH=/opt/venv/bin:$PATH" in INSTRUCTIONS
    assert "ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in INSTRUCTIONS


def test_the_base_brings_a_cuda_that_tensorflow_takes():
    """CUDA itself comes from the lock: the versions that TensorFlow's own extra allows."""
    (base,) = (each for each in INSTRUCTIONS if each.startswith("FROM nvidia/cuda:"))
    major = re.match(r"FROM nvidia/cuda:(\d+)\.", base)
    assert major is not None
    assert locked("nvidia-cuda-runtime-cu12").split(".")[0] == major[1] == "12"
    assert locked("nvidia-cudnn-cu12").split(".")[0] == "9"
