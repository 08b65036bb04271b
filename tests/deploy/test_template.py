"""The Flex Template's parameters are the options of `run`, all of them, and lead back to them."""

import json
import re
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.command_line import parse_command_line, run_flags
from pipeline.config import CURATED_FLAGS, config_keys
from pipeline.config_layers import resolve
from pipeline.options import IMAGE_VARIABLE, beam_options
from pipeline.template import (
    NOT_PARAMETERS,
    metadata,
    parameters,
    run_arguments,
    split_list,
)

ROOT = Path(__file__).parents[2]
METADATA = json.loads((ROOT / "deploy" / "metadata.json").read_text())
PATTERNS = {each["name"]: each.get("regexes", [".*"])[0] for each in METADATA["parameters"]}

#: A value for every parameter, and what the configuration then holds; none of them is a default.
#: Those of switches whose keys exclude each other are in OTHERWISE.
VALUES = {
    "input": ("gs://b/a\\,b/*.jpg, gs://b/c", ("gs://b/a,b/*.jpg", "gs://b/c")),
    "input_query": ("SELECT uri, 'a,b' FROM `p.d.t`", "SELECT uri, 'a,b' FROM `p.d.t`"),
    "output": ("gs://b/out,bq://p.d.t", "gs://b/out"),
    "model": ("gs://b/model", "gs://b/model"),
    "incremental": ("True", True),
    "prune": ("true", True),
    "allow_other_models": ("true", True),
    "max_failure_ratio": ("0.25", 0.25),
    "set": ("output.shards=7,beam.streaming=false", None),
    "verbose": ("false", None),
    "input_query_dataset": ("p.d", "p.d"),
    "input_uri_column": ("007", "007"),
    "input_carry": ("label,price:float64", ("label", "price:float64")),
    "input_extensions": (".jpg,", (".jpg", "")),
    "input_max_bytes": ("1000", 1000),
    "input_max_pixels": ("2000", 2000),
    "input_http_timeout_seconds": ("1.5e1", 15.0),
    "input_allow_private_addresses": ("true", True),
    "output_table": ("p.d.other", "p.d.t"),
    "output_formats": ("tfrecord, parquet", ("tfrecord", "parquet")),
    "output_max_pruned_ratio": ("1", 1.0),
    "output_shards": ("9", 9),
    "output_compression": ("gzip", "gzip"),
    "model_weights": ("null", None),
    "model_signature": ('a "quoted" \\ name', 'a "quoted" \\ name'),
    "model_output": ("vector:0", "vector:0"),
    "model_outputs": ("embedding,top_classes", ("embedding", "top_classes")),
    "model_top_classes": ("3", 3),
    "model_labels": ("gs://b/labels.txt", "gs://b/labels.txt"),
    "model_precision": ("bfloat16", "bfloat16"),
    "model_gpu": ("required", "required"),
    "model_batch_size": ("16", 16),
    "model_share_between_processes": ("True", True),
    "model_copies": ("2", 2),
    "preprocess_size": ("224, 192", (224, 192)),
    "preprocess_fit": ("pad", "pad"),
    "preprocess_kernel": ("bicubic", "bicubic"),
    "preprocess_antialias": ("false", False),
    "preprocess_scaled_decoding": ("off", "off"),
    "preprocess_value_range": ("-1,1", (-1.0, 1.0)),
    "preprocess_orientation": ("ignore", "ignore"),
    "preprocess_background": ("1,2,3", (1, 2, 3)),
    "failures_breaker_images": ("50", 50),
    "workers_accelerator": (
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    ),
    "workers_min_ram": ("24GB", "24GB"),
    "workers_stage": ("embed", "embed"),
    "workers_decode_threads": ("4", 4),
    "beam_extra_flags": ("--a=1\\,2,--b", ("--a=1,2", "--b")),
}
#: Cannot be said together with those above.
OTHERWISE = {"overwrite": ("true", True), "config": ("", None)}

KEYS = {each.name: CURATED_FLAGS.get(each.label, each.label) for each in parameters()}


def launch(launched_with):
    """What `run` makes of a launch, and its configuration."""
    request = parse_command_line(
        run_arguments([f"--{name}={value}" for name, value in launched_with.items()])
    )
    return request, resolve(request.settings)


def value_of(config, key):
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_the_metadata_are_those_of_the_options():
    assert metadata() == METADATA, "run make template"


def test_every_flag_is_a_parameter_but_those_that_cannot_be():
    flags = {each.label for each in parameters() if each.label.startswith("--")}
    assert flags | set(NOT_PARAMETERS) | {"-h", "--help"} == set(run_flags())
    assert not flags & set(NOT_PARAMETERS)


def test_every_key_is_one_parameter():
    keys = [key.path for key in config_keys()]
    assert sorted(set(KEYS.values()) - {"--config", "--set", "--verbose"}) == sorted(keys)
    assert len(set(KEYS.values())) == len(KEYS)


def test_every_parameter_is_tried_here():
    assert sorted(VALUES | OTHERWISE) == sorted(KEYS)


def test_a_launch_with_every_parameter_has_the_right_configuration():
    request, config = launch({name: value for name, (value, _) in VALUES.items()})
    found = {name: value_of(config, key) for name, key in KEYS.items() if not key.startswith("--")}
    expected = {name: value for name, (_, value) in VALUES.items() if value is not None}
    assert {name: found[name] for name in expected} == expected
    assert config.model.weights is None
    assert config.beam.flags() == {"streaming": False}
    assert not request.wait
    assert not request.verbose
    assert request.beam_flags == ()


@pytest.mark.parametrize("name", ["overwrite", *sorted(set(VALUES) - {"set", "verbose"})])
def test_a_parameter_alone_says_what_it_says_among_others(name):
    needed = {"input": "i", "output": "o", "input_query": "", "model": ""}
    # What some need beside them.
    beside = {
        "prune": {"incremental": "true"},
        "model_labels": {"model_outputs": "top_classes"},
        "model_copies": {"model_share_between_processes": "true"},
        "output_table": {"output": "gs://b/o"},
    }
    value, expected = (VALUES | OTHERWISE)[name]
    _, config = launch(needed | beside.get(name, {}) | {name: value})
    if name == "output_table":
        expected = value
    assert value_of(config, KEYS[name]) == expected


def test_a_file_is_beaten_by_the_parameters(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(
        "input: {patterns: [a]}\noutput: {path: b, shards: 3, compression: gzip}\n"
        "beam: {region: europe-west4}\n"
    )
    _, config = launch({"config": str(file), "output": "c", "output_shards": "4"})
    assert config.input.patterns == ("a",)
    assert config.output.path == "c"
    assert (config.output.shards, config.output.compression) == (4, "gzip")
    assert config.beam.flags() == {"region": "europe-west4"}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_dataflow_lets_right_values_pass(name):
    assert re.search(PATTERNS[name], VALUES[name][0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prune", "yes"),
        ("max_failure_ratio", "ten"),
        ("model_batch_size", "16.5"),
        ("model_batch_size", "007"),
        ("max_failure_ratio", "00.5"),
        ("preprocess_size", "0224,224"),
        ("preprocess_fit", "squish"),
        ("model_precision", "half"),
        ("model_gpu", "true"),
        ("preprocess_size", "224x224"),
        ("preprocess_value_range", "0;1"),
        ("output_formats", "tfrecord,csv"),
        ("output_compression", "nonegzip"),
    ],
)
def test_dataflow_refuses_wrong_values_before_it_starts_a_machine(name, value):
    assert not re.search(PATTERNS[name], value)


def test_null_is_a_value_where_a_key_takes_it():
    assert re.search(PATTERNS["preprocess_size"], "null")
    assert not re.search(PATTERNS["model_batch_size"], "null")


@pytest.mark.parametrize("pattern", sorted(set(PATTERNS.values())))
def test_patterns_are_extended_regular_expressions_of_posix(pattern):
    assert not re.search(r"\\[A-Za-z]|\(\?|[*+?}]\?", pattern)


def test_names_are_plain_and_none_is_a_flag_of_beam():
    beam = PipelineOptions([]).get_all_options()
    for name in KEYS:
        assert re.fullmatch("[a-z][a-z_]*", name)
        assert name not in beam


def test_the_launchers_own_flags_go_on_to_beam_as_they_are():
    own = ["--runner=DataflowRunner", '--labels={"a": "b,c"}', "--template_location=gs://b/job"]
    request = parse_command_line(run_arguments(["--input=a", *own]))
    assert list(request.beam_flags) == own


DATAFLOW = (
    *("--runner=DataflowRunner", "--project=my-project", "--region=europe-west4"),
    "--temp_location=gs://my-bucket/tmp",
)


def image_of_workers(*launched_with):
    request = parse_command_line(run_arguments(["--input=a", "--output=b", *launched_with]))
    options = beam_options(resolve(request.settings).beam, request.beam_flags).get_all_options()
    return options["sdk_container_image"] or options["worker_harness_container_image"]


def test_workers_run_the_image_of_the_launcher(monkeypatch):
    monkeypatch.setenv(IMAGE_VARIABLE, "registry/image:1")
    assert image_of_workers(*DATAFLOW) == "registry/image:1"
    assert image_of_workers() is None
    monkeypatch.setenv(IMAGE_VARIABLE, "")
    assert image_of_workers(*DATAFLOW) is None


@pytest.mark.parametrize(
    "named",
    [
        "--sdk_container_image=registry/other:2",
        "--worker_harness_container_image=registry/other:2",
        "--beam_extra_flags=--sdk_container_image=registry/other:2",
        "--set=beam.sdk_container_image=registry/other:2",
        "--config=",
    ],
)
def test_an_image_that_is_named_anywhere_beats_that_of_the_launcher(named, monkeypatch, tmp_path):
    monkeypatch.setenv(IMAGE_VARIABLE, "registry/image:1")
    if named == "--config=":
        (tmp_path / "job.yaml").write_text("beam: {sdk_container_image: registry/other:2}\n")
        named += str(tmp_path / "job.yaml")
    assert image_of_workers(*DATAFLOW, named) == "registry/other:2"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", ["a"]),
        ("a, b ,c d", ["a", "b", "c d"]),
        (r"photos/{a\,b}/*.jpg", ["photos/{a,b}/*.jpg"]),
        (r"a\\,b", ["a\\", "b"]),
        (r"a\b\\c", ["a\\b\\c"]),
        ("a,", ["a", ""]),
        (r"bc,de\\", ["bc", "de\\"]),
    ],
)
def test_lists_are_split_at_commas_that_are_not_escaped(text, values):
    assert split_list(text) == values


def test_a_wrong_value_that_got_this_far_is_refused_by_name(capsys):
    from pipeline.__main__ import main

    assert main(run_arguments(["--input=a", "--output=b", "--model_batch_size=many"])) == 2
    assert "model.batch_size: 'many' is not allowed" in capsys.readouterr().err
