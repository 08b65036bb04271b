"""What Dataflow would refuse late, or pay for in vain, found before anything is submitted.

The rules are Google's, as their pages gave them in 2026:
https://cloud.google.com/dataflow/docs/guides/right-fitting and
https://cloud.google.com/dataflow/docs/guides/flexrs.
"""

import os
import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipeline.accelerator import Accelerator
from pipeline.config import JobConfig
from pipeline.paths import runs_on_dataflow
from transforms.errors import RequestError
from transforms.models.keras_handle import IMAGENET
from transforms.models.model_handles import hub_address
from transforms.networks.device import GPU_CAPABILITIES
from transforms.storage.file_listing import is_remote

#: Compute capabilities of GPUs that lack a precision (https://developer.nvidia.com/cuda-legacy-gpus
#: and https://developer.nvidia.com/cuda-gpus); all others on offer are newer.
_COMPUTE_CAPABILITIES = {
    "nvidia-tesla-p100": (6, 0),
    "nvidia-tesla-p4": (6, 1),
    "nvidia-tesla-v100": (7, 0),
    "nvidia-tesla-t4": (7, 5),
}

#: A key that begins with a letter, and a value, which may be missing
#: (https://cloud.google.com/resource-manager/docs/labels-overview).
_LABEL = re.compile(r"[^\W\d_][\w-]{0,62}(=[\w-]{0,63})?")

#: Experiments with which Beam refuses to submit; it would do so too late for us.
_WITHOUT_RUNNER_V2 = (
    "disable_portable_runner",
    "disable_runner_v2",
    "disable_runner_v2_until_2023",
    "disable_runner_v2_until_v2.50",
    "disable_prime_runner_v2",
    "enable_streaming_java_runner",
)


def refuse_what_dataflow_cannot_run(config: JobConfig, options: PipelineOptions) -> None:
    """Refuse settings that Dataflow does not take together, and workers without our code.

    Nothing here uses the network. Other runners are let pass.

    Raises:
        RequestError: with all that was found.
    """
    if not runs_on_dataflow(options):
        return
    problems = [
        *_without_runner_v2(options),
        *_for_other_jobs(options),
        *_with_wrong_values(options),
        *_with_hints(config, options),
        *_on_one_gpu(config, options),
        *_on_no_such_gpu(config, options),
        *_without_our_code(options),
    ]
    if problems:
        raise RequestError("; ".join(problems))


def warn_of_the_internet(config: JobConfig, options: PipelineOptions) -> Iterator[str]:
    """Yield what workers of Dataflow without public addresses are asked to fetch from the internet.

    A network with Cloud NAT lets them, so that this is refused to nobody.
    """
    if not runs_on_dataflow(options) or options.view_as(WorkerOptions).use_public_ips is not False:
        return
    advice = "without public addresses workers reach it through Cloud NAT only"
    handle = config.model.handle
    if hub_address(handle) is not None or handle.endswith(f"?weights={IMAGENET}"):
        yield (
            f"warning: workers look the model up in the internet, and {advice}; put a copy into a "
            "bucket: embed-images stage-model HANDLE gs://BUCKET/models/NAME"
        )
    if any(each.lower().startswith(("http://", "https://")) for each in config.input.patterns):
        yield f"warning: an input is in the internet, and {advice}"


def _without_runner_v2(options: PipelineOptions) -> Iterator[str]:
    debug = options.view_as(DebugOptions)
    for experiment in _WITHOUT_RUNNER_V2:
        if debug.lookup_experiment(experiment):
            yield f"--experiments={experiment}: Beam runs Python on Runner v2 only; leave it out"


def _for_other_jobs(options: PipelineOptions) -> Iterator[str]:
    """Yield what is for jobs of another kind than this one."""
    if options.view_as(StandardOptions).streaming:
        yield "this is a batch job; leave out --streaming"
    services = [
        *(options.view_as(GoogleCloudOptions).dataflow_service_options or []),
        *(options.view_as(DebugOptions).experiments or []),
    ]
    if any(each.startswith("worker_accelerator") for each in services):
        yield (
            "worker_accelerator would put a GPU into every worker of the job, those that list and "
            "write as well; use workers.accelerator, which puts it where the model runs"
        )


def _with_wrong_values(options: PipelineOptions) -> Iterator[str]:
    """Yield values that Dataflow refuses, or takes for others, and Beam does not look at."""
    threads = options.view_as(DebugOptions).number_of_worker_harness_threads
    if threads is not None and threads < 1:
        yield f"--number_of_worker_harness_threads is {threads}; use 1 or more, or leave it out"
    for label in options.view_as(GoogleCloudOptions).labels or []:
        # What a launcher adds is JSON, and comes from Dataflow itself.
        if not label.startswith("{") and not (_LABEL.fullmatch(label) and label.islower()):
            yield (
                f"--labels={label}: Google Cloud takes small letters, digits, dashes and "
                "underscores, as in team=image-search"
            )


def _with_hints(config: JobConfig, options: PipelineOptions) -> Iterator[str]:
    """Yield what does not go together with resource hints, which make Dataflow right-fit."""
    hints = _hints_in_words(config, options)
    if not hints:
        return
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.flexrs_goal == "COST_OPTIMIZED":
        yield (
            f"{hints} cannot be had with FlexRS; leave out --flexrs_goal, or run on CPUs without "
            "it (configs/dataflow_cpu.yaml)"
        )


def _on_one_gpu(config: JobConfig, options: PipelineOptions) -> Iterator[str]:
    """Yield what keeps the workers from making use of the GPU that is asked for."""
    accelerator = _accelerator(config, options)
    if accelerator is None:
        return
    workers = options.view_as(WorkerOptions)
    if not _image(options):
        yield (
            f"the accelerator {accelerator} needs --sdk_container_image, an image with this "
            "package and TensorFlow's CUDA libraries (docs/dataflow.md)"
        )
    asked = Accelerator.parse(accelerator)
    yield from asked.problems(workers.machine_type)
    processes = not options.view_as(DebugOptions).lookup_experiment(
        "no_use_multiple_sdk_containers"
    )
    shared = config.model.share_between_processes or asked.shares_between_processes
    if processes and not shared:
        yield (
            "every process of a worker would load a model of its own into the one GPU; "
            "add --experiments=no_use_multiple_sdk_containers, or set "
            "model.share_between_processes=true"
        )


def _on_no_such_gpu(config: JobConfig, options: PipelineOptions) -> Iterator[str]:
    """Yield what only a GPU does that no worker is going to have."""
    model = config.model
    accelerator = _accelerator(config, options)
    if accelerator is None:
        if config.gpu == "required":
            yield (
                "model.gpu is required, and no worker is going to have one; set "
                "workers.accelerator, or leave out model.gpu"
            )
        if model.precision == "float16":
            yield (
                "model.precision is float16, which no CPU computes in; set workers.accelerator, or "
                "another precision"
            )
    kind = Accelerator.parse(accelerator or "").kind
    has = _COMPUTE_CAPABILITIES.get(kind)
    if has is None or model.precision == "float32" or model.precision == "auto":
        return
    if has < GPU_CAPABILITIES[model.precision]:
        yield f"model.precision is {model.precision}, which {kind} does not compute in"


def _without_our_code(options: PipelineOptions) -> Iterator[str]:
    """Yield why workers would not find this package."""
    setup = options.view_as(SetupOptions)
    if setup.setup_file:
        if not os.path.isfile(setup.setup_file):
            yield f"--setup_file={setup.setup_file} is no file; give the ./setup.py of a checkout"
        elif not os.path.dirname(setup.setup_file):
            # Beam would change to the folder "", and fail.
            yield f"--setup_file={setup.setup_file}: Beam wants a folder in it; write ./setup.py"
        elif os.path.basename(setup.setup_file) not in ("setup.py", "pyproject.toml"):
            yield f"--setup_file={setup.setup_file} is no setup.py; give that of a checkout"
    if setup.requirements_file and not os.path.isfile(setup.requirements_file):
        yield f"--requirements_file={setup.requirements_file} is no file; leave it out or mend it"
    for package in setup.extra_packages or []:
        if not package.endswith((".tar", ".tar.gz", ".whl", ".zip")):
            yield f"--extra_package={package} is no package; give a .whl, .tar.gz, .tar or .zip"
        elif not is_remote(package) and not os.path.isfile(package):
            yield f"--extra_package={package} is no file; leave it out or mend it"
    brought = [setup.setup_file, setup.extra_packages, setup.requirements_file]
    if not any([*brought, _image(options)]):
        yield (
            "workers would not find this package; give --sdk_container_image=IMAGE, or, from a "
            "checkout, --setup_file=./setup.py, which each worker then installs for minutes"
        )


def _image(options: PipelineOptions) -> str | None:
    """Return the workers' image; Beam still takes it under an older name, too."""
    workers = options.view_as(WorkerOptions)
    image: str | None = workers.sdk_container_image or workers.worker_harness_container_image
    return image


def _accelerator(config: JobConfig, options: PipelineOptions) -> str | None:
    """Return the GPU of the steps that run the model, as a resource hint names it."""
    return config.workers.accelerator or _of_the_whole_job(options).get("accelerator")


def _hints_in_words(config: JobConfig, options: PipelineOptions) -> str:
    """Return the resource hints of the job, or nothing."""
    keys = {"accelerator": config.workers.accelerator, "min_ram": config.workers.min_ram}
    words = [f"workers.{key}={value}" for key, value in keys.items() if value]
    flags = [f"--resource_hints={key}={value}" for key, value in _of_the_whole_job(options).items()]
    return " and ".join([*words, *flags])


def _of_the_whole_job(options: PipelineOptions) -> dict[str, str]:
    """Return the hints that Beam's own flag puts on every step."""
    given = options.view_as(StandardOptions).resource_hints or []
    return dict(hint.partition("=")[::2] for hint in given)
