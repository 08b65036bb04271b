"""Beam's options: layers, rendering, unknown flags, what Beam itself refuses, the runners."""

import os
import subprocess
import sys
from typing import Any

import apache_beam
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TypeOptions,
    WorkerOptions,
)

from pipeline.command_line import run_flags
from pipeline.config import BeamConfig
from pipeline.flags import nearest_flag
from pipeline.options import beam_options, decode_threads, refuse_what_cannot_run
from transforms.errors import RequestError

DATAFLOW = ["--runner=DataflowRunner", "--project=my-project", "--region=europe-west4"]


def options_of(*argv: str, **beam: Any) -> PipelineOptions:
    return beam_options(BeamConfig(**beam), argv)


def all_of(*argv: str, **beam: Any) -> dict[str, Any]:
    return dict(options_of(*argv, **beam).get_all_options(drop_default=True))


def refusal_of(*argv: str, **beam: Any) -> str:
    with pytest.raises(RequestError) as caught:
        options_of(*argv, **beam)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layers


def test_the_command_line_beats_the_configuration() -> None:
    options = options_of("--direct_num_workers", "4", direct_num_workers=2, region="r")
    assert options.view_as(DirectOptions).direct_num_workers == 4
    assert all_of("--region=s", region="r")["region"] == "s"


def test_flags_that_beam_collects_add_up() -> None:
    options = options_of("--experiments=c", experiments=("a", "b=1"))
    assert options.view_as(DebugOptions).experiments == ["a", "b=1", "c"]


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--direct_num_workers", "3"], "direct_num_workers", 3),
        (["--streaming"], "streaming", True),
        (["--no_use_public_ips"], "use_public_ips", False),
        (["--max_parallelism", "-7"], "max_parallelism", -7),
        (["--job_name=my job"], "job_name", "my job"),
    ],
)
def test_flags_are_read_as_beam_reads_them(argv: list[str], key: str, value: object) -> None:
    assert all_of(*argv)[key] == value


# The beam section


@pytest.mark.parametrize(
    ("beam", "key", "value"),
    [
        ({"direct_num_workers": 3}, "direct_num_workers", 3),
        ({"streaming": True}, "streaming", True),
        ({"streaming": False}, "streaming", None),
        ({"use_public_ips": True}, "use_public_ips", True),
        ({"use_public_ips": False}, "use_public_ips", False),
        ({"no_use_public_ips": True}, "use_public_ips", False),
        ({"no_use_public_ips": False}, "use_public_ips", True),
        ({"pipeline_type_check": False}, "pipeline_type_check", False),
        ({"no_pipeline_type_check": True}, "pipeline_type_check", False),
        ({"dry_run": True}, "dry_run", "True"),
        ({"dry_run": False}, "dry_run", None),
        ({"labels": ("a=1", "b=2")}, "labels", ["a=1", "b=2"]),
        ({"region": ("one",)}, "region", "one"),
        ({"region": None}, "region", None),
        ({"machine_type": "n2-standard-4"}, "machine_type", "n2-standard-4"),
    ],
)
def test_a_key_becomes_the_flag(beam: dict[str, Any], key: str, value: object) -> None:
    assert all_of(**beam).get(key) == value


@pytest.mark.parametrize(
    ("beam", "message"),
    [
        ({"runer": "x"}, "beam.runer: no flag of Beam; did you mean beam.runner?"),
        ({"direct_num_workers": "x"}, "beam.direct_num_workers: invalid int value: 'x'"),
        ({"streaming": "yes"}, "beam.streaming: 'yes' is not allowed; use true or false"),
        ({"region": ("a", "b")}, "beam.region: ['a', 'b'] is a list; this flag takes one value"),
        ({"enable_streaming_engine": False}, "beam.enable_streaming_engine: Beam has no flag"),
    ],
)
def test_a_wrong_key_is_refused_by_its_path(beam: dict[str, Any], message: str) -> None:
    assert refusal_of(**beam).startswith(message)


# Unknown flags


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--regoin=x"], "unknown flag --regoin; did you mean --region?"),
        (["--direct_workers", "3"], "unknown flag --direct_workers; did you mean"),
        (["--zzz"], "unknown flag --zzz; neither we nor Beam have it"),
        (["--streaming", "yes"], "unexpected argument 'yes'; every value needs its flag"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_name(argv: list[str], message: str) -> None:
    assert refusal_of(*argv).startswith(message)


@pytest.mark.parametrize("runner", ["FlinkRunner", "flink", "SparkRunner", "PrismRunner"])
def test_a_portable_runner_is_handed_flags_that_python_does_not_know(runner: str) -> None:
    options = options_of(f"--runner={runner}", "--objectReuse=true", "--fasterCopy", "yes", foo=3)
    known = options.get_all_options(retain_unknown_options=True)
    assert (known["objectReuse"], known["fasterCopy"], known["foo"]) == ("true", "yes", "3")


def test_a_portable_runner_does_not_excuse_stray_arguments() -> None:
    message = refusal_of("--runner=FlinkRunner", "--objectReuse=true", "stray")
    assert message == "unexpected argument 'stray'; every value needs its flag"


def test_extra_flags_pass_with_every_runner_and_lose_to_the_command_line() -> None:
    options = options_of(
        "--direct_num_workers=4", extra_flags=("--zzz=1", "--direct_num_workers=3")
    )
    known = options.get_all_options(retain_unknown_options=True)
    assert (known["zzz"], known["direct_num_workers"]) == ("1", 4)


def test_no_flag_of_beam_is_taken_for_a_mistyped_one_of_ours() -> None:
    parsers: list[Any] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    flags = {flag for action in parsers[0]._actions for flag in action.option_strings}
    taken = {flag for flag in flags - {"-h", "--help"} if nearest_flag(flag, run_flags())}
    assert not taken
    assert not flags & set(run_flags()) - {"-h", "--help"}


# What Beam refuses


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--direct_num_workers=x"], "--direct_num_workers: invalid int value: 'x'"),
        (["--direct_running_mode=x"], "--direct_running_mode: invalid choice: 'x'"),
        (["--streaming=true"], "--streaming: takes no value"),
        (["--region"], "--region: needs a value"),
        (["--runner"], "--runner: needs a value"),
        (["--beam_services=x"], "--beam_services: invalid JSON: 'x'"),
        (["--gcs_custom_audit_entries=[]"], "a flag of Beam: "),
        (["--runner=FlinkRunner", "--environment_type=PROCESS"], "Option process_command is"),
        (["--runner=PortableRunner"], "--runner=PortableRunner needs --job_endpoint"),
        (
            ["--runner=DataflowRunner"],
            "--runner=DataflowRunner needs --project, --region and --temp_location",
        ),
        (DATAFLOW, "--runner=DataflowRunner needs --temp_location"),
        ([*DATAFLOW, "--temp_location=/tmp"], "Invalid GCS path (/tmp)"),
        ([*DATAFLOW, "--temp_location=gs://bucket/tmp", "--job_name=A_B"], "Invalid job_name"),
        (
            [
                *DATAFLOW,
                "--temp_location=gs://bucket/tmp",
                "--num_workers=3",
                "--max_num_workers=2",
            ],
            "num_workers (3) cannot exceed",
        ),
    ],
)
def test_what_beam_refuses_is_one_sentence(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    assert refusal_of(*argv).startswith(message)


def test_a_complete_dataflow_request_is_accepted_without_the_network() -> None:
    options = options_of(*DATAFLOW, "--temp_location=gs://bucket/tmp")
    assert options.view_as(WorkerOptions).num_workers is None
    # Validation sets this to False; what the runner gets must still be undecided.
    assert options.view_as(SetupOptions).save_main_session is None


def test_a_dataflow_endpoint_may_have_a_port_and_must_be_a_url() -> None:
    flags = [*DATAFLOW, "--temp_location=gs://bucket/tmp"]
    options = options_of(*flags, "--dataflow_endpoint=http://localhost:8080")
    assert options.view_as(GoogleCloudOptions).dataflow_endpoint == "http://localhost:8080"
    assert "Invalid url" in refusal_of(*flags, "--dataflow_endpoint=localhost:8080")


# Runners


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DirectRuner", "unknown runner 'DirectRuner'; did you mean DirectRunner?"),
        ("dataflowrunnr", "unknown runner 'dataflowrunnr'; did you mean DataflowRunner?"),
        ("zzz", "unknown runner 'zzz'; use DataflowRunner, "),
        ("no_such_package.Runner", "the runner no_such_package.Runner cannot be loaded"),
        ("json.Runner", "the runner json.Runner cannot be loaded"),
    ],
)
def test_an_unknown_runner_is_refused_with_the_nearest_name(name: str, message: str) -> None:
    assert refusal_of(f"--runner={name}").startswith(message)
    assert refusal_of(runner=name).startswith(message)


def test_the_default_is_the_local_engine_that_decodes_on_every_processor() -> None:
    options = options_of()
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"
    assert options.view_as(DirectOptions).direct_num_workers == 1
    assert decode_threads(options) == len(os.sched_getaffinity(0))
    assert options.view_as(TypeOptions).pipeline_type_check


@pytest.mark.parametrize(
    "argv",
    [
        ["--direct_num_workers=3"],
        ["--runner=PortableRunner", "--job_endpoint=localhost:8099"],
        [*DATAFLOW, "--temp_location=gs://bucket/tmp"],
    ],
)
def test_where_bundles_run_side_by_side_each_decodes_in_one_thread(argv: list[str]) -> None:
    assert decode_threads(options_of(*argv)) == 1


@pytest.mark.parametrize(
    ("argv", "mode", "workers"),
    [
        (["--direct_num_workers=3"], "multi_threading", 3),
        (["--direct_running_mode=in_memory"], "in_memory", 1),
        (["--direct_running_mode=multi_processing"], "multi_processing", 0),
        (["--direct_running_mode=multi_threading"], "multi_threading", 0),
        (["--runner=DirectRunner"], "in_memory", 1),
        (["--runner=direct", "--direct_num_workers=1"], "in_memory", 1),
    ],
)
def test_local_workers_use_the_whole_machine_unless_told_otherwise(
    argv: list[str], mode: str, workers: int
) -> None:
    direct = options_of(*argv).view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == (mode, workers)


def test_a_compatibility_version_that_is_given_stays() -> None:
    given = all_of("--runner=DirectRunner", "--update_compatibility_version=2.70.0")
    assert given["update_compatibility_version"] == "2.70.0"


def test_the_version_that_keeps_prism_away_changes_nothing_else() -> None:
    options = options_of("--runner=DirectRunner")
    assert not options.is_compat_version_prior_to(apache_beam.__version__)


@pytest.mark.parametrize("runner_flags", [[], ["--runner=DirectRunner"]])
def test_a_local_run_never_turns_to_prism(runner_flags: list[str]) -> None:
    code = """
import sys
import apache_beam as beam
from pipeline.config import BeamConfig
from pipeline.options import refuse_what_cannot_run, beam_options
with beam.Pipeline(options=beam_options(BeamConfig(), sys.argv[1:])) as pipeline:
    numbers = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle()
    numbers | beam.CombineGlobally(sum) | beam.Map(print)
# Beam imports it just before it looks for a Prism.
assert "apache_beam.runners.portability.prism_runner" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *runner_flags], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


@pytest.mark.parametrize(
    ("flags", "wait", "sentence"),
    [
        (["--direct_num_workers=-3"], True, "direct_num_workers is -3"),
        (["--runner=BundleBasedDirectRunner"], True, "use DirectRunner"),
        (
            ["--runner=PortableRunner", "--job_endpoint=localhost:1"],
            True,
            "no job server answers at --job_endpoint=localhost:1",
        ),
        (
            [
                *("--runner=PortableRunner", "--job_endpoint=embed"),
                "--environment_type=LOOPBACK",
            ],
            False,
            "--no-wait ends this process",
        ),
    ],
)
def test_a_runner_that_would_never_finish_the_job_is_refused(flags, wait, sentence):
    options = beam_options(BeamConfig(), flags)
    with pytest.raises(RequestError, match=sentence):
        refuse_what_cannot_run(options, wait=wait)


def test_a_local_runner_that_can_run_is_let_pass():
    refuse_what_cannot_run(beam_options(BeamConfig(), []), wait=True)
