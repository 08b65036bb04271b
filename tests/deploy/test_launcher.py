"""deploy/main.py as a launcher starts it: a job is planned and staged, and left to Dataflow."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from components import require
from sample_images import jpeg_bytes
from storage_emulator import BUCKET, storage_server
from tiny_models import save_tiny_model

from pipeline.options import IMAGE_VARIABLE

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

ROOT = Path(__file__).parents[2]
IMAGE = "europe-west4-docker.pkg.dev/p/images/embed-images:1"


def launch(server, *arguments):
    """Run the launcher's file with the flags that a launcher adds, and give how it ended."""
    added = (
        "--runner=DataflowRunner",
        "--project=test-project",
        "--region=europe-west4",
        "--job_name=nightly",
        f"--temp_location={server.address}/tmp",
        f"--staging_location={server.address}/staging",
        f"--template_location={server.address}/staging/template_launches/1/job_object",
        "--no_auth",
    )
    return subprocess.run(
        [sys.executable, "deploy/main.py", *arguments, *added],
        cwd=ROOT,
        env=os.environ | {IMAGE_VARIABLE: IMAGE, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def read(server, name):
    place = f"{server.host}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media"
    with urllib.request.urlopen(place) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def bucket():
    with storage_server() as server:
        server.put("photos/a.jpg", jpeg_bytes())
        server.put("more,photos/b.jpg", jpeg_bytes())
        yield server


def test_the_job_is_written_for_dataflow_and_not_waited_for(bucket, tmp_path):
    address, model = bucket.address, save_tiny_model(tmp_path / "model")
    ended = launch(
        bucket,
        rf"--input={address}/photos,{address}/more\,photos",
        f"--output={address}/out",
        f"--model={model}",
        "--output_formats=tfrecord,parquet",
        # The second one would be refused beside the first if it counted as true.
        "--incremental=True",
        "--overwrite=false",
        "--incremental=true",
        "--prune=false",
        "--allow_other_models=True",
        "--config=configs/dataflow_t4.yaml",
        "--workers_min_ram=30GB",
    )
    assert ended.returncode == 0, ended.stderr
    assert f"submitted; {address}/out is complete once" in ended.stderr
    # The log of the launcher is all that there is of it.
    assert "apache_beam.runners.dataflow" in ended.stderr

    job = json.loads(read(bucket, "staging/template_launches/1/job_object"))
    assert job["name"] == "nightly"
    (pool,) = job["environment"]["workerPools"]
    images = {each["containerImage"] for each in pool["sdkHarnessContainerImages"]}
    assert images == {IMAGE}
    # Of the file, where no parameter and no flag of the launcher says anything else.
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 8
    staged = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    graph = beam_runner_api_pb2.Pipeline.FromString(
        read(bucket, staged.removeprefix(f"{address}/"))
    )
    names = {each.unique_name for each in graph.components.transforms.values()}
    assert {"ListImages", "EmbedImages", "WriteTFRecords", "WriteParquet", "FinishRun"} <= names
    assert "ReadLedger" in names
    hints = [each.resource_hints for each in graph.components.environments.values()]
    assert b"30000000000" in {value for each in hints for value in each.values()}


def test_a_wrong_launch_says_why_and_writes_no_job(bucket):
    before = len(bucket.requests)
    ended = launch(bucket, f"--output={bucket.address}/other")
    assert ended.returncode == 2
    assert "patterns is missing" in ended.stderr
    assert len(bucket.requests) == before
