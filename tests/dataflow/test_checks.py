"""What is refused before a job is submitted to Dataflow."""

import pytest

from pipeline.config import (
    BeamConfig,
    InputConfig,
    JobConfig,
    ModelConfig,
    OutputConfig,
    WorkersConfig,
)
from pipeline.dataflow import refuse_what_dataflow_cannot_run, warn_of_the_internet
from pipeline.options import beam_options
from transforms.errors import RequestError

T4 = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
A100 = "type:nvidia-tesla-a100;count:1;install-nvidia-driver"
DATAFLOW = (
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west4",
    "--temp_location=gs://my-bucket/temporary",
)
IMAGE = "--sdk_container_image=registry/image:1"
ONE_PROCESS = "--experiments=no_use_multiple_sdk_containers"


def check(*flags, shared=False, model=(), **workers):
    config = JobConfig(
        input=InputConfig(patterns=("gs://my-bucket/photos",)),
        output=OutputConfig(path="gs://my-bucket/out"),
        model=ModelConfig(share_between_processes=shared, **dict(model)),
        workers=WorkersConfig(**workers),
    )
    refuse_what_dataflow_cannot_run(config, beam_options(BeamConfig(), flags))


def refusal(*flags, **workers):
    with pytest.raises(RequestError) as caught:
        check(*DATAFLOW, *flags, **workers)
    return str(caught.value)


def gpu_refusal(*flags, accelerator=T4, **workers):
    """Of a job that is right but for these flags."""
    return refusal(IMAGE, ONE_PROCESS, *flags, accelerator=accelerator, **workers)


@pytest.mark.parametrize(
    "accelerator",
    [T4, f"{L4};machine_type:g2-standard-8", f"{A100};machine_type:a2-highgpu-1g"],
)
@pytest.mark.parametrize("stage", ["read_decode_embed", "embed"])
def test_a_gpu_on_the_embedding_stage_is_taken(accelerator, stage):
    check(*DATAFLOW, IMAGE, ONE_PROCESS, accelerator=accelerator, min_ram="24GB", stage=stage)


@pytest.mark.parametrize(
    "workers",
    [{"accelerator": T4}, {"min_ram": "24GB"}, {"flag": f"--resource_hints=accelerator={T4}"}],
    ids=["accelerator", "min_ram", "flag"],
)
def test_a_hint_does_not_go_with_flexrs(workers):
    more = [workers["flag"]] if "flag" in workers else []
    named = {key: value for key, value in workers.items() if key != "flag"}
    message = refusal(IMAGE, ONE_PROCESS, "--flexrs_goal=COST_OPTIMIZED", *more, **named)
    assert "cannot be had with FlexRS" in message
    assert "; " not in message.replace(T4, "").replace("; leave out", "")


@pytest.mark.parametrize(
    "flag",
    [
        f"--dataflow_service_options=worker_accelerator={T4}",
        f"--dataflow_service_options=enable_prime,worker_accelerator={T4}",
        f"--experiments=worker_accelerator={T4}",
    ],
)
@pytest.mark.parametrize("accelerator", [T4, None])
def test_a_gpu_in_every_worker_is_refused(flag, accelerator):
    message = refusal(IMAGE, ONE_PROCESS, flag, accelerator=accelerator)
    assert "use workers.accelerator, which puts it where the model runs" in message


def test_the_job_is_no_streaming_job_with_hints_or_without():
    assert "this is a batch job" in refusal(IMAGE, "--streaming")
    assert "this is a batch job" in gpu_refusal("--streaming")


def test_flexrs_without_hints_is_taken_and_so_is_its_other_goal():
    check(*DATAFLOW, IMAGE, "--flexrs_goal=COST_OPTIMIZED")
    check(*DATAFLOW, IMAGE, ONE_PROCESS, "--flexrs_goal=SPEED_OPTIMIZED", accelerator=T4)


def test_a_gpu_needs_an_image():
    message = refusal(ONE_PROCESS, "--extra_package=gs://b/x.whl", accelerator=T4)
    assert "needs --sdk_container_image" in message


def test_the_older_name_of_the_image_counts_too():
    check(*DATAFLOW, "--worker_harness_container_image=x/y:1", ONE_PROCESS, accelerator=T4)


@pytest.mark.parametrize(
    ("accelerator", "reason"),
    [
        ("type:nvidia-tesla-t4;count:1", "add ;install-nvidia-driver"),
        ("type:nvidia-tesla-t4;count:2;install-nvidia-driver", "use count:1 and more workers"),
        (L4, "in machines of type g2-* only; add ;machine_type:g2-standard-8"),
        (f"{L4};machine_type:n1-standard-8", "in machines of type g2-* only"),
        (A100, "add ;machine_type:a2-highgpu-1g"),
        (
            "type:nvidia-a100-80gb;count:1;install-nvidia-driver",
            "add ;machine_type:a2-ultragpu-1g",
        ),
        (f"{T4};machine_type:g2-standard-8", "in machines of type n1-* only"),
        (f"{L4};machine_type:g2-standard-24", "comes with 2 GPUs"),
        (f"{A100};machine_type:a2-highgpu-2g", "comes with 2 GPUs"),
        (f"{T4};machinetype:n1-standard-8", "machinetype is no part of an accelerator; did you"),
        ("type:t4;count:1;install-nvidia-driver", "did you mean nvidia-tesla-t4?"),
        ("type:nvidia-t4;count:1;install-nvidia-driver", "did you mean nvidia-tesla-t4?"),
        ("type:nvidia-rtx-9;count:1;install-nvidia-driver", "is no GPU that Dataflow has"),
    ],
)
def test_an_accelerator_that_no_worker_could_use_is_refused(accelerator, reason):
    assert reason in gpu_refusal(accelerator=accelerator)


def test_a_version_of_the_driver_may_be_named():
    accelerator = "type:nvidia-tesla-t4;count:1;install-nvidia-driver:535"
    check(*DATAFLOW, IMAGE, ONE_PROCESS, accelerator=accelerator)


def test_the_machine_type_of_the_whole_job_will_do_for_an_l4():
    check(*DATAFLOW, IMAGE, ONE_PROCESS, "--machine_type=g2-standard-4", accelerator=L4)


@pytest.mark.parametrize("gpu", ["p4", "p100", "v100", "t4"])
def test_other_gpus_are_attached_to_n1(gpu):
    accelerator = f"type:nvidia-tesla-{gpu};count:1;install-nvidia-driver"
    check(*DATAFLOW, IMAGE, ONE_PROCESS, accelerator=accelerator)
    message = gpu_refusal("--machine_type=n2-standard-8", accelerator=accelerator)
    assert "add ;machine_type:n1-standard-8" in message


def test_a_hint_of_beams_own_flag_is_checked_as_well():
    message = refusal(IMAGE, ONE_PROCESS, "--resource_hints=accelerator=type:t4;count:1")
    assert "did you mean nvidia-tesla-t4?" in message


def test_one_gpu_is_for_one_model():
    assert "no_use_multiple_sdk_containers" in refusal(IMAGE, accelerator=T4)
    check(*DATAFLOW, IMAGE, accelerator=T4, shared=True)
    check(*DATAFLOW, IMAGE, accelerator=f"{T4};use_nvidia_mps")


def test_a_gpu_is_not_required_of_workers_that_have_none():
    assert "no worker is going to have one" in refusal(IMAGE, model={"gpu": "required"})
    check(*DATAFLOW, IMAGE, model={"gpu": "expected"})
    check(*DATAFLOW, IMAGE, ONE_PROCESS, model={"gpu": "required"}, accelerator=T4)


@pytest.mark.parametrize(
    ("precision", "accelerator", "reason"),
    [
        ("float16", None, "which no CPU computes in"),
        ("bfloat16", T4, "which nvidia-tesla-t4 does not compute in"),
        (
            "float16",
            "type:nvidia-tesla-p100;count:1;install-nvidia-driver",
            "which nvidia-tesla-p100 does not compute in",
        ),
    ],
)
def test_a_precision_that_the_workers_lack_is_refused(precision, accelerator, reason):
    assert reason in gpu_refusal(accelerator=accelerator, model={"precision": precision})


@pytest.mark.parametrize(
    ("precision", "accelerator"),
    [
        ("bfloat16", None),
        ("float16", T4),
        ("auto", T4),
        ("bfloat16", f"{A100};machine_type:a2-highgpu-1g"),
    ],
)
def test_a_precision_that_workers_may_have_is_taken(precision, accelerator):
    check(
        *(*DATAFLOW, IMAGE, ONE_PROCESS),
        accelerator=accelerator,
        model={"precision": precision},
    )


def test_workers_without_this_package_are_refused(tmp_path, monkeypatch):
    assert "workers would not find this package" in refusal()
    (tmp_path / "setup.py").touch()
    monkeypatch.chdir(tmp_path)
    assert "write ./setup.py" in refusal("--setup_file=setup.py")
    assert "is no file" in refusal("--setup_file=./gone/setup.py")
    check(*DATAFLOW, "--setup_file=./setup.py")
    (tmp_path / "embed_images-0.1.0.tar.gz").touch()
    check(*DATAFLOW, "--extra_package=embed_images-0.1.0.tar.gz")
    check(*DATAFLOW, "--extra_package=gs://my-bucket/embed_images-0.1.0.tar.gz")


@pytest.mark.parametrize(
    "flag",
    [
        "--requirements_file=gone.txt",
        "--extra_package=gone.tar.gz",
        "--extra_package=README.md",
        "--setup_file=./README.md",
    ],
)
def test_a_file_that_cannot_be_staged_is_refused_before_an_older_output_is_removed(
    flag, tmp_path, monkeypatch
):
    (tmp_path / "README.md").touch()
    monkeypatch.chdir(tmp_path)
    assert flag in refusal(IMAGE, flag)


@pytest.mark.parametrize("label", ["Team=search", "team=Search", "team=image search", "7=x", "=x"])
def test_a_label_that_google_refuses_is_refused_here(label):
    assert f"--labels={label}" in refusal(IMAGE, f"--labels={label}")


@pytest.mark.parametrize("label", ["team=image-search_2", "urgent", "team=", '{"a": "b,c"}'])
def test_a_label_that_google_takes_is_taken(label):
    check(*DATAFLOW, IMAGE, f"--labels={label}")


def test_no_harness_threads_are_no_number_of_threads():
    assert "use 1 or more" in refusal(IMAGE, "--number_of_worker_harness_threads=0")


@pytest.mark.parametrize("runner", ["dataflow", "dataflowrunner", "DATAFLOW", "DataflowRunner"])
def test_every_spelling_of_the_runner_is_checked(runner):
    with pytest.raises(RequestError, match="this is a batch job"):
        check(f"--runner={runner}", *DATAFLOW[1:], IMAGE, "--streaming", min_ram="1GB")


@pytest.mark.parametrize("experiment", ["disable_runner_v2", "disable_prime_runner_v2"])
def test_an_older_runner_is_refused_before_an_older_output_is_removed(experiment):
    assert "Runner v2 only" in refusal(IMAGE, f"--experiments={experiment}")


def test_all_that_is_wrong_is_said_at_once():
    message = refusal("--streaming", accelerator=L4)
    for reason in ("--streaming", "--sdk_container_image", "g2-standard-8", "multiple_sdk"):
        assert reason in message


def warnings(*flags, handle="gs://my-bucket/model", pattern="gs://my-bucket/photos"):
    config = JobConfig(
        input=InputConfig(patterns=(pattern,)),
        output=OutputConfig(path="gs://my-bucket/out"),
        model=ModelConfig(handle=handle),
    )
    return list(warn_of_the_internet(config, beam_options(BeamConfig(), [*DATAFLOW, *flags])))


@pytest.mark.parametrize(
    ("named", "advice"),
    [
        ({"handle": ModelConfig().handle}, "stage-model HANDLE gs://"),
        ({"handle": "keras:mobilenet?weights=imagenet"}, "stage-model HANDLE gs://"),
        ({"pattern": "https://example.org/a.jpg"}, "an input is in the internet"),
    ],
)
def test_workers_without_public_addresses_are_not_sent_to_the_internet_in_silence(named, advice):
    (warning,) = warnings("--no_use_public_ips", **named)
    assert advice in warning
    assert warnings(**named) == []


def test_what_is_in_a_bucket_or_in_the_image_is_no_reason_to_warn():
    assert warnings("--no_use_public_ips") == []
    assert warnings("--no_use_public_ips", handle="/opt/model") == []


def test_other_runners_pass_over_all_of_it():
    check("--runner=FnApiRunner", "--streaming", accelerator=L4, min_ram="1TB")
