"""Whole submissions to Dataflow, offline, and what they have staged read back.

Cloud Storage is an emulator, and Dataflow a small server that takes jobs. What is checked is
what the service would be given; that it does with it what its documentation says is not.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import step_names
import tensorflow
from components import require
from dataflow_server import dataflow_server, read_staged, staged_pipeline
from image_examples_files import write_examples
from sample_images import corrupt_images, jpeg_bytes
from storage_emulator import storage_server, upload
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config_layers import settings_from_file
from transforms.folders.output_folder import is_complete
from transforms.search.read_embeddings import read_embeddings

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

ROOT = Path(__file__).parents[2]
IMAGE = "europe-west4-docker.pkg.dev/my-project/images/embed-images:1"
KEY = "projects/my-project/locations/europe-west4/keyRings/ring/cryptoKeys/key"
SUBNETWORK = "regions/europe-west4/subnetworks/workers"
ACCOUNT = "embed-images@my-project.iam.gserviceaccount.com"

MIN_RAM = "beam:resources:min_ram_bytes:v1"
ACCELERATOR = "beam:resources:accelerator:v1"
HINTS = {
    "t4": {
        ACCELERATOR: "type:nvidia-tesla-t4;count:1;machine_type:n1-standard-8;"
        "install-nvidia-driver",
        MIN_RAM: "24000000000",
    },
    "l4": {
        ACCELERATOR: "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver",
        MIN_RAM: "24000000000",
    },
    "a100": {
        ACCELERATOR: "type:nvidia-tesla-a100;count:1;machine_type:a2-highgpu-1g;"
        "install-nvidia-driver",
        MIN_RAM: "64000000000",
    },
    "cpu": {},
}
GPUS = [name for name, hints in HINTS.items() if hints]

#: The largest payload is that of CheckRun, which holds all that run.json says of the run.
LARGEST_PAYLOAD = 40_000
LARGEST_PIPELINE = 1_000_000

EMBED = ("ReadImages", "DecodeImages", "EmbedImages")

#: For jobs that are run here: no worker here has a GPU.
ON_CPU = ("--set", "model.gpu=optional")


class Submission(NamedTuple):
    """What the service was given."""

    job: dict[str, Any]
    pipeline: Any
    """The Pipeline proto."""

    @property
    def transforms(self):
        """By their unique names."""
        return {each.unique_name: each for each in self.pipeline.components.transforms.values()}

    def hints(self, transform):
        """Return the resource hints of a transform."""
        environments = self.pipeline.components.environments
        return {
            urn: value.decode()
            for urn, value in environments[transform.environment_id].resource_hints.items()
        }


@pytest.fixture(scope="module")
def storage():
    """Photographs and a model in a bucket."""
    with storage_server() as server:
        for number in range(6):
            server.put(f"photos/{number}.jpg", jpeg_bytes(seed=number))
        server.put("photos/corrupt.jpg", corrupt_images()["truncated JPEG"])
        yield server


@pytest.fixture(scope="module")
def model(storage, tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "model")
    return upload(folder, f"{storage.address}/model")


@pytest.fixture(scope="module")
def dataflow(storage):
    with dataflow_server() as server:
        yield server


def arguments(config, storage, dataflow, model, output, *more, images="photos"):
    bucket = storage.address
    return [
        *("run", "--config", str(ROOT / "configs" / f"dataflow_{config}.yaml")),
        *("--input", images if ":" in images else f"{bucket}/{images}"),
        *("--output", f"{bucket}/{output}", "--model", model),
        *("--project=my-project", "--region=europe-west4", f"--temp_location={bucket}/temporary"),
        *(f"--sdk_container_image={IMAGE}", f"--dataflow_endpoint={dataflow.endpoint}"),
        *("--max-failure-ratio=0.5", "--allow-other-models"),
        # What Beam sets by itself where the endpoint is Google's.
        "--save_main_session",
        *more,
    ]


def submit(dataflow, *arguments_):
    """Submit without waiting; return what the service was given last."""
    assert main([*arguments_, "--no-wait"]) == 0
    return Submission(dataflow.jobs[-1], staged_pipeline(dataflow.jobs[-1]))


@pytest.fixture(scope="module", params=HINTS)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def submission(config, storage, dataflow, model):
    return submit(
        dataflow,
        *arguments(config, storage, dataflow, model, f"out-{config}"),
        *(f"--subnetwork={SUBNETWORK}", f"--service_account_email={ACCOUNT}"),
        *(f"--dataflow_kms_key={KEY}", "--labels=team=search"),
    )


def test_the_steps_from_the_bytes_to_the_vectors_have_the_hints_and_no_others_have(
    submission, config
):
    for name, transform in submission.transforms.items():
        if transform.environment_id:
            wanted = HINTS[config] if name.split("/")[0] in EMBED else {}
            assert submission.hints(transform) == wanted, name


def test_every_step_runs_in_the_image_that_was_named(submission, config):
    from apache_beam.portability.api import beam_runner_api_pb2

    environments = submission.pipeline.components.environments
    used = {t.environment_id for t in submission.transforms.values() if t.environment_id}
    assert len(used) == (1 if config == "cpu" else 2)
    for name in used:
        assert environments[name].urn == "beam:env:docker:v1"
        payload = beam_runner_api_pb2.DockerPayload.FromString(environments[name].payload)
        assert payload.container_image == IMAGE
    (pool,) = submission.job["environment"]["workerPools"]
    assert {each["environmentId"] for each in pool["sdkHarnessContainerImages"]} == used
    assert {each["containerImage"] for each in pool["sdkHarnessContainerImages"]} == {IMAGE}


def fused_stages(submission):
    """Fuse as Beam does where a runner leaves it to Beam: within one environment only."""
    from apache_beam.portability import common_urns
    from apache_beam.runners.portability.fn_api_runner import translations

    primitives = common_urns.primitives
    _, stages = translations.create_and_optimize_stages(
        submission.pipeline,
        phases=translations.standard_optimize_phases(),
        known_runner_urns=frozenset(
            [primitives.IMPULSE.urn, primitives.GROUP_BY_KEY.urn, primitives.FLATTEN.urn]
        ),
    )
    return [{transform.unique_name for transform in stage.transforms} for stage in stages]


def steps_in(stage):
    return {name.split("/")[0] for name in stage}


def test_reading_decoding_and_inference_are_one_stage(submission, config):
    stage = next(s for s in fused_stages(submission) if any("BeamML_RunInf" in n for n in s))
    assert set(EMBED) <= steps_in(stage)
    if config != "cpu":
        assert steps_in(stage) == set(EMBED)


def consumers(submission):
    """Each PCollection with the names of the leaf transforms that read it."""
    readers: dict[str, set[str]] = {}
    for transform in submission.transforms.values():
        if not transform.subtransforms:
            for collection in transform.inputs.values():
                readers.setdefault(collection, set()).add(transform.unique_name)
    return readers


def test_neither_bytes_nor_pixels_leave_the_stage(submission):
    """What the steps give to others are failures, unchanged references and vectors."""
    readers = consumers(submission)
    inside = [
        name
        for name, transform in submission.transforms.items()
        if name.split("/")[0] in EMBED and not transform.subtransforms
    ]
    handed_out = set()
    for name in inside:
        transform = submission.transforms[name]
        assert transform.spec.urn == "beam:transform:pardo:v1", name
        for tag, collection in transform.outputs.items():
            if {reader.split("/")[0] for reader in readers.get(collection, ())} - set(EMBED):
                handed_out.add((name, tag))
    attempt = "Attempt/ParDo(_AttemptFn)"
    assert handed_out == {
        (f"ReadImages/Read/{attempt}", "failed"),
        (f"DecodeImages/Decode/{attempt}", "failed"),
        (f"EmbedImages/SplitAnswers/{attempt}", "failed"),
        (f"EmbedImages/SplitAnswers/{attempt}", "None"),
    }


def test_the_other_cut_puts_inference_alone_on_the_gpu(storage, dataflow, model):
    cut = submit(
        dataflow,
        *arguments("t4", storage, dataflow, model, "out-cut", "--set", "workers.stage=embed"),
    )
    hinted = {
        name.split("/")[0]
        for name, transform in cut.transforms.items()
        if transform.environment_id and cut.hints(transform)
    }
    assert hinted == {"EmbedImages"}
    stages = [steps_in(stage) & set(EMBED) for stage in fused_stages(cut)]
    assert {"ReadImages", "DecodeImages"} in stages
    assert {"EmbedImages"} in stages


def test_of_tfrecords_of_images_the_second_reading_alone_is_in_the_stage(
    storage, dataflow, model, tmp_path
):
    shard = tmp_path / "shard.tfrecord"
    write_examples(shard, [{"image/encoded": jpeg_bytes(), "image/filename": b"a.jpg"}])
    images = f"tfrecord:{upload(shard, f'{storage.address}/shard.tfrecord')}"
    made = submit(
        dataflow,
        *arguments("t4", storage, dataflow, model, "out-examples", images=images),
    )
    hinted = {
        name
        for name, transform in made.transforms.items()
        if name.startswith("ReadImageExamples/") and made.hints(transform)
    }
    assert hinted == {"ReadImageExamples/Read"}


def test_the_names_of_the_steps_are_those_of_every_engine(submission):
    assert len(submission.transforms) == len(submission.pipeline.components.transforms)
    known = set(step_names.FILE.read_text().splitlines())
    assert set(EMBED) <= step_names.step_names(submission.pipeline) <= known


def test_nothing_large_is_pickled_into_the_graph(submission):
    sizes = {name: len(each.spec.payload) for name, each in submission.transforms.items()}
    assert max(sizes.values()) < LARGEST_PAYLOAD, max(sizes, key=sizes.__getitem__)
    assert submission.pipeline.ByteSize() < LARGEST_PIPELINE
    staged = {
        dependency["name"]: read_staged(f"gs://{dependency['location'].partition('/')[2]}")
        for dependency in submission.job["environment"]["workerPools"][0]["packages"]
    }
    assert set(staged) == {"pickled_main_session", "submission_environment_dependencies.txt"}
    assert len(staged["pickled_main_session"]) < 10_000


def test_what_is_for_google_alone_is_passed_through(submission, config):
    environment = submission.job["environment"]
    (pool,) = environment["workerPools"]
    assert submission.job["project"] == "my-project"
    assert submission.job["region"] == "europe-west4"
    assert submission.job["type"] == "JOB_TYPE_BATCH"
    assert submission.job["labels"] == {"application": "embed-images", "team": "search"}
    assert environment["serviceAccountEmail"] == ACCOUNT
    assert environment["serviceKmsKeyName"] == KEY
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert pool["subnetwork"] == SUBNETWORK
    assert pool["numWorkers"] == 1
    autoscaling = pool["autoscalingSettings"]
    assert autoscaling["algorithm"] == "AUTOSCALING_ALGORITHM_BASIC"
    assert autoscaling["maxNumWorkers"] == {"t4": 8, "l4": 8, "a100": 4, "cpu": 16}[config]
    goal = environment.get("flexResourceSchedulingGoal", "FLEXRS_UNSPECIFIED")
    assert goal == ("FLEXRS_COST_OPTIMIZED" if config == "cpu" else "FLEXRS_UNSPECIFIED")


def test_a_worker_is_one_process_with_threads_for_its_machine(submission, config):
    (pool,) = submission.job["environment"]["workerPools"]
    experiments = submission.job["environment"]["experiments"]
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments
    assert "use_runner_v2" in experiments
    threads = {"t4": 12, "l4": 12, "a100": 18, "cpu": 8}[config]
    assert pool["numThreadsPerWorker"] == threads
    assert pool["machineType"] == ("n2-standard-8" if config == "cpu" else "n1-standard-2")


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
    assert report["config"]["workers"]["accelerator"] == HINTS["t4"][ACCELERATOR]


@pytest.mark.parametrize("config", GPUS)
def test_the_gpu_configs_want_their_gpu(config):
    file = settings_from_file(str(ROOT / "configs" / f"dataflow_{config}.yaml"))
    assert [setting.value for setting in file if setting.path == "model.gpu"] == ["required"]


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
