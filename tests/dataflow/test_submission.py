"""Whole submissions to Dataflow, offline, and what they have staged read back.

Cloud Storage is an emulator, and Dataflow a small server that takes jobs. What is checked is
what the service would be given; that it does with it what its documentation says is not.
"""

import pytest
import step_names
from components import require
from dataflow_server import read_staged
from dataflow_submissions import CONFIGS, IMAGE, arguments, submit
from image_examples_files import write_examples
from sample_images import jpeg_bytes
from storage_emulator import upload

from pipeline.config_layers import settings_from_file

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

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


@pytest.mark.parametrize("config", GPUS)
def test_the_gpu_configs_want_their_gpu(config):
    file = settings_from_file(str(CONFIGS / f"dataflow_{config}.yaml"))
    assert [setting.value for setting in file if setting.path == "model.gpu"] == ["required"]
