"""What was staged for Dataflow runs, and finishes its output without the launcher.

Beam's local engine stands in for the service, and knows nothing but what was staged.
"""

import json

import numpy as np
import pytest
import tensorflow
from apache_beam.io.filesystems import FileSystems
from components import require
from dataflow_server import dataflow_server, read_staged
from dataflow_submissions import arguments, submit
from google.api_core.exceptions import Conflict, Forbidden, ServiceUnavailable

from pipeline.__main__ import main
from pipeline.submission import no_job_began
from transforms.folders.output_folder import is_complete
from transforms.search.read_embeddings import read_embeddings

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

#: For jobs that are run here: no worker here has a GPU.
ON_CPU = ("--set", "model.gpu=optional")


def test_what_was_staged_runs_and_gives_what_a_local_run_gives(storage, model, tmp_path, capsys):
    """The service is Beam's local engine here, and knows nothing but the staged pipeline."""
    bucket = storage.address
    with dataflow_server(run_jobs=True) as dataflow:
        assert main(arguments("t4", storage, dataflow, model, "out-run", *ON_CPU)) == 0
    assert "embedded   6" in capsys.readouterr().out
    local = [
        *("run", "--input", f"{bucket}/photos", "--output", str(tmp_path / "out")),
        *("--model", model, "--max-failure-ratio=0.5", "--set", "model.batch_size=64"),
    ]
    assert main(local) == 0
    there, here = read_embeddings(f"{bucket}/out-run"), read_embeddings(str(tmp_path / "out"))
    assert sorted(there.uris) == sorted(here.uris)
    assert len(there.uris) == 6
    by_uri = dict(zip(here.uris, here.vectors, strict=True))
    for uri, vector in zip(there.uris, there.vectors, strict=True):
        np.testing.assert_allclose(vector, by_uri[uri], atol=1e-6)


def test_a_launcher_that_leaves_has_claimed_the_output_and_the_job_finishes_it(
    storage, dataflow, model, capsys
):
    output = f"{storage.address}/out-left"
    submit(dataflow, *arguments("t4", storage, dataflow, model, "out-left", *ON_CPU))
    assert f"is complete once {output} holds _SUCCESS" in capsys.readouterr().err
    assert not is_complete(output)
    claim = json.loads(read_staged(f"{output}/run.json"))
    assert "counts" not in claim
    assert dataflow.run(len(dataflow.jobs) - 1) == "JOB_STATE_DONE"
    assert is_complete(output)
    report = json.loads(read_staged(f"{output}/run.json"))
    assert report["run_id"] == claim["run_id"]
    assert report["counts"]["found"] == 7
    assert report["config"]["workers"]["accelerator"].startswith("type:nvidia-tesla-t4;")


def test_without_a_gpu_the_gpu_configs_fail_instead_of_working_on_as_a_cpu(
    storage, dataflow, model, caplog
):
    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    submit(dataflow, *arguments("t4", storage, dataflow, model, "out-no-gpu"))
    assert dataflow.run(len(dataflow.jobs) - 1) == "JOB_STATE_FAILED"
    assert "model.gpu is required, and TensorFlow sees no GPU" in caplog.text
    assert not is_complete(f"{storage.address}/out-no-gpu")


def test_of_two_jobs_for_one_folder_the_later_submission_wins(storage, dataflow, model):
    for _ in range(2):
        submit(dataflow, *arguments("cpu", storage, dataflow, model, "out-twice"))
    output, last = f"{storage.address}/out-twice", len(dataflow.jobs) - 1
    claim = json.loads(read_staged(f"{output}/run.json"))
    assert dataflow.run(last - 1) == "JOB_STATE_FAILED"
    assert not is_complete(output)
    assert dataflow.run(last) == "JOB_STATE_DONE"
    assert json.loads(read_staged(f"{output}/run.json"))["run_id"] == claim["run_id"]
    assert len(read_embeddings(output).uris) == 6


def test_a_service_that_refuses_the_job_is_one_line_and_no_success(
    storage, dataflow, model, capsys
):
    dataflow.refusal = (403, "the caller may not create jobs")
    try:
        assert main(arguments("t4", storage, dataflow, model, "out-refused")) == 1
    finally:
        dataflow.refusal = None
    assert "the caller may not create jobs" in capsys.readouterr().err
    assert not is_complete(f"{storage.address}/out-refused")


def contents(folder):
    """The path of each file in a folder of the bucket, with what is in it."""
    (found,) = FileSystems.match([f"{folder}/**"])
    return {each.path: read_staged(each.path) for each in found.metadata_list}


def test_a_refused_submission_leaves_the_job_that_is_at_work_in_its_folder_alone(
    storage, dataflow, model, capsys
):
    output = "out-busy"
    command = [*arguments("cpu", storage, dataflow, model, output), "--no-wait"]
    other = [*command, "--set", "model.outputs=[embedding]", "--set", "output.formats=[parquet]"]
    assert main(command) == 0
    number = len(dataflow.jobs) - 1
    folder = f"{storage.address}/{output}"
    before = contents(folder)
    dataflow.refusal = (409, "there is a job of this name")
    try:
        assert main(other) == 1
    finally:
        dataflow.refusal = None
    assert contents(folder) == before
    assert "it has its claim back" in capsys.readouterr().err
    assert dataflow.run(number) == "JOB_STATE_DONE"
    assert is_complete(folder)


def test_only_what_surely_left_no_job_behind_gives_an_earlier_job_its_claim_back():
    """A fault of the server or of the connection may come after the job was taken."""
    sure = (Forbidden("no"), Conflict("name"), RuntimeError("unlabelled"), FileNotFoundError("x"))
    unsure = (ServiceUnavailable("try again"), ConnectionResetError(), TimeoutError())
    assert all(map(no_job_began, sure))
    assert not any(map(no_job_began, unsure))
