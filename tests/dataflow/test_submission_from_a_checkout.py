"""A submission without an image: this tree goes along as a package, and no secret does."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from components import require
from dataflow_server import dataflow_server, read_staged, staged_pipeline
from dataflow_submissions import IMAGE, Submission, arguments

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

ROOT = Path(__file__).parents[2]

SECRETS = {
    "client_secret": "GOCSPX-hunter2",
    "refresh_token": "1//hunter3",
    "token": "ya29.hunter4",
}


@pytest.fixture(scope="module")
def from_a_checkout(storage, model, tmp_path_factory):
    """Submitted by a process of its own in a copy of this tree, which is staged as well."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("pipeline", "transforms"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    credentials = json.loads(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
    (checkout / "credentials.json").write_text(json.dumps({**credentials, **SECRETS}))
    with dataflow_server() as dataflow:
        command = arguments("cpu", storage, dataflow, model, "out-checkout")
        command.remove(f"--sdk_container_image={IMAGE}")
        finished = subprocess.run(
            [sys.executable, "-m", "pipeline", *command, "--no-wait", "--setup_file=./setup.py"],
            cwd=checkout,
            env={
                **os.environ,
                "GOOGLE_APPLICATION_CREDENTIALS": str(checkout / "credentials.json"),
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert dataflow.authorization == [f"Bearer {SECRETS['token']}"]
        return Submission(dataflow.jobs[0], staged_pipeline(dataflow.jobs[0]))


def test_the_package_that_is_submitted_is_this_tree(from_a_checkout):
    (package,) = [
        each
        for each in from_a_checkout.job["environment"]["workerPools"][0]["packages"]
        if each["name"].endswith(".tar.gz")
    ]
    content = read_staged(f"gs://{package['location'].partition('/')[2]}")
    staged = {}
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        for member in archive.getmembers():
            _, _, name = member.name.partition("/")
            if member.isfile() and name.split("/")[0] in ("pipeline", "transforms"):
                staged[name] = archive.extractfile(member).read()
    here = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in ("pipeline", "transforms")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert staged == here


def test_no_secret_of_the_launcher_is_sent_or_staged(from_a_checkout, storage):
    sent = json.dumps(from_a_checkout.job).encode() + from_a_checkout.pipeline.SerializeToString()
    stored = [
        read_staged(f"{storage.address}/{item['name']}")
        for item in storage.storage.get_file_list("models", None, None)[0]
        if int(item["size"])
    ]
    assert len(stored) > 10
    for secret in SECRETS.values():
        assert secret.encode() not in sent
        assert not any(secret.encode() in content for content in stored)
