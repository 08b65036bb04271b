"""The configuration: its layers, its errors, its YAML."""

import dataclasses
from pathlib import Path

import pydantic
import pytest

from pipeline.config import (
    CURATED_FLAGS,
    BeamConfig,
    InputConfig,
    JobConfig,
    OutputConfig,
    PreprocessConfig,
    config_keys,
    to_yaml,
)
from pipeline.config_layers import Setting, resolve, setting_from_text, settings_from_file
from pipeline.options import beam_options
from pipeline.yaml_text import YamlError, format_yaml, parse_yaml
from transforms.errors import RequestError
from transforms.records import Preprocessing

CONFIGS = Path(__file__).parents[2] / "configs"
LOCAL_CONFIG = CONFIGS / "local.yaml"
WAREHOUSE_CONFIG = CONFIGS / "warehouse.yaml"
NEEDED = [
    Setting("input.patterns", ["photos/"], "--input"),
    Setting("output.path", "out/", "--output"),
]


def write(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


def from_sets(*texts: str) -> JobConfig:
    return resolve([*NEEDED, *map(setting_from_text, texts)])


def problems_of(*texts: str) -> list[str]:
    with pytest.raises(RequestError) as caught:
        from_sets(*texts)
    lines = str(caught.value).split("\n  ")
    return lines if len(lines) == 1 else lines[1:]


# Layers


def test_a_later_layer_beats_a_former_and_leaves_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model: {batch_size: 8, share_between_processes: true, copies: 2}\n"
        "input: {patterns: [a, b]}\n",
    )
    config = resolve(
        [
            *settings_from_file(path),
            setting_from_text("model.batch_size=16"),
            Setting("input.patterns", ["c"], "--input"),
            Setting("output.path", "out", "--output"),
        ]
    )
    assert (config.model.batch_size, config.model.copies) == (16, 2)
    assert config.input.patterns == ("c",)
    assert config.failures.max_ratio == 0.1


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path: Path) -> None:
    assert settings_from_file(write(tmp_path, "# nothing yet\n")) == []
    assert settings_from_file(write(tmp_path, "model:\n  # nothing yet\n")) == []


def test_the_configuration_in_code_equals_the_one_from_settings() -> None:
    in_code = JobConfig(input=InputConfig(patterns=("photos/",)), output=OutputConfig(path="out/"))
    assert resolve(NEEDED) == in_code


def test_the_configuration_is_frozen() -> None:
    config = from_sets()
    with pytest.raises(pydantic.ValidationError):
        config.model.batch_size = 3  # type: ignore[misc]


def test_extensions_are_compared_in_lower_case() -> None:
    assert from_sets("input.extensions=[.JPG, '']").input.extensions == (".jpg", "")


# Errors


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("model.batchsize=3", "model.batchsize: unknown key; did you mean model.batch_size?"),
        ("modle.handle=x", "modle.handle: unknown key; did you mean model.handle?"),
        ("output.batch_size=3", "output.batch_size: unknown key; did you mean model.batch_size?"),
        ("model.handle.x=3", "model.handle.x: unknown key; did you mean model.handle?"),
        ("qqq.zzz=3", "qqq.zzz: unknown key"),
        ("model.batch_size=0", "0 is not allowed; use a whole number from 1 to 1024"),
        ("model.batch_size=1025", "1025 is not allowed; use a whole number from 1 to 1024"),
        ("model.batch_size='32'", "'32' is not allowed; use a whole number from 1 to 1024"),
        ("model.batch_size=1.5", "1.5 is not allowed; use a whole number"),
        ("model.batch_size=true", "true is not allowed; use a whole number"),
        ("model.batch_size=", "null is not allowed; use a whole number"),
        ("model.precision=int8", "'int8' is not allowed; use float32, bfloat16, float16 or auto"),
        ("model.signature=''", "'' is not allowed; use text, or null"),
        ("model.outputs=[]", "use a list of embedding, logits or top_classes"),
        ("model.outputs=logits", "use a list of embedding, logits or top_classes"),
        ("model.outputs=[vector]", "use a list of embedding, logits or top_classes"),
        ("model.outputs=[logits, logits]", "logits stands there 2 times; name it once"),
        ("model.top_classes=0", "0 is not allowed; use a whole number from 1 to 1000"),
        ("model.top_classes=1001", "use a whole number from 1 to 1000"),
        ("output.overwrite=1", "1 is not allowed; use true or false"),
        ("output.compression=zip", "'zip' is not allowed; use none or gzip"),
        ("output.path=''", "'' is not allowed; use text"),
        ("failures.max_ratio=1.01", "1.01 is not allowed; use a number from 0 to 1"),
        ("failures.max_ratio=.nan", "nan is not allowed; use a number from 0 to 1"),
        ("failures.max_ratio=1e999", "inf is not allowed; use a number from 0 to 1"),
        ("input.patterns=photos/", "'photos/' is not allowed; use a list of texts"),
        ("output.formats=[csv]", "use a list of tfrecord or parquet"),
        ("output.formats=[parquet, parquet]", "parquet stands there 2 times"),
        ("input.carry=[a, 'a:int64']", "a stands there 2 times"),
        ("input.max_pixels=178956971", "use a whole number from 1 to 178956970"),
        ("input.extensions=[jpg]", "input.extensions: 'jpg' does not begin with a dot"),
        ("preprocess.size=[0, 3]", "[0, 3] is not allowed; use a list of 2 whole numbers"),
        ("preprocess.background=[0, 0, 256]", "use a list of 3 whole numbers from 0 to 255"),
        ("preprocess.kernel=cubic", "use bilinear, bicubic, lanczos3 or nearest"),
        ("workers.accelerator=t4", "'t4' is no accelerator; write it like type:nvidia-tesla-t4;"),
        ("workers.min_ram=24", "24 is not allowed; use text"),
        ("workers.min_ram='24'", "'24' is no amount of memory; write it like 24GB"),
        ("workers.stage=decode", "use read_decode_embed or embed"),
        ("beam.flink_version=1.20", "1.2 is not allowed; use text"),
        ("beam.--runner=x", "beam.--runner: no name of a flag"),
        ("beam.extra_flags=--x", "'--x' is not allowed; use a list of texts"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key_and_what_is_allowed(
    setting: str, problem: str
) -> None:
    (line,) = problems_of(setting)
    assert line.startswith(setting.partition("=")[0] + ":")
    assert problem in line
    assert line.endswith("(--set)")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("preprocess.kernel=nearest", "preprocess.kernel 'nearest' cannot antialias"),
        ("model.labels=names.txt", "model.labels is 'names.txt', but labels are written beside"),
        ("preprocess.value_range=[1, 0]", "preprocess.value_range is (1.0, 0.0)"),
    ],
)
def test_what_the_contract_refuses_is_refused_with_the_key(setting: str, problem: str) -> None:
    (line,) = problems_of(setting)
    assert line.startswith(problem)


def test_all_errors_are_listed_one_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "modle: 3\nmodel: {batch_size: 0, handle: 4}\noutput: 7\n")
    with pytest.raises(RequestError) as caught:
        resolve(settings_from_file(path))
    first, *rest = str(caught.value).split("\n  ")
    assert first == "wrong configuration:"
    assert sorted(rest) == [
        "input.patterns is missing; give it with --input or in a configuration file",
        f"model.batch_size: 0 is not allowed; use a whole number from 1 to 1024 ({path})",
        f"model.handle: 4 is not allowed; use text ({path})",
        f"modle: unknown key; did you mean model? ({path})",
        "output.path is missing; give it with --output or in a configuration file",
        f"output: 7 is no section; write its keys below it ({path})",
    ]


@pytest.mark.parametrize("text", ["model.batch_size", "batch_size=3"])
def test_a_set_without_section_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"SECTION\.KEY=VALUE"):
        setting_from_text(text)


def test_a_set_with_broken_yaml_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--set preprocess.size=\[3"):
        setting_from_text("preprocess.size=[3")


# Files


def test_broken_yaml_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  batch_size: 3\n  handle: a: b\n")
    with pytest.raises(RequestError) as caught:
        settings_from_file(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  copies: 1\n  batch_size: 3\n  copies: 2\n")
    with pytest.raises(RequestError) as caught:
        settings_from_file(path)
    assert str(caught.value) == f"{path}, line 4: the key copies is there already, in line 2"


def test_a_missing_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.yaml")
    with pytest.raises(RequestError) as caught:
        settings_from_file(path)
    assert str(caught.value) == f"there is no configuration file {path}"


def test_a_folder_and_a_file_without_sections_and_a_binary_file_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        settings_from_file(str(tmp_path))
    with pytest.raises(RequestError, match="needs sections"):
        settings_from_file(write(tmp_path, "- 1\n"))
    (tmp_path / "job.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(RequestError, match=r"job\.yaml"):
        settings_from_file(str(tmp_path / "job.yaml"))


def test_the_local_config_is_valid_and_names_the_direct_runner() -> None:
    config = resolve([*settings_from_file(str(LOCAL_CONFIG)), *NEEDED])
    assert config.beam.flags()["runner"] == "DirectRunner"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_configuration_that_we_ship_can_be_used_with_an_input_and_an_output(
    path: Path,
) -> None:
    config = resolve([*settings_from_file(str(path)), *NEEDED])
    assert parse_yaml(to_yaml(config))
    # What only the user knows.
    elsewhere = [
        *("--project=my-project", "--region=europe-west4"),
        "--temp_location=gs://my-bucket/temporary",
    ]
    beam_options(config.beam, elsewhere if path.name.startswith("dataflow_") else [])


def test_a_scheduled_job_is_incremental_and_prunes_only_when_told() -> None:
    output = resolve([*settings_from_file(str(WAREHOUSE_CONFIG)), *NEEDED]).output
    assert output.incremental
    assert not output.prune


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("none", "none"),
        ("1e-3", 0.001),
        ("010", "010"),
        ("2026-11-20", "2026-11-20"),
        ("12:30:45", "12:30:45"),
        ("true", True),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("1_000", "1_000"),
    ],
)
def test_yaml_follows_version_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["off", "1e-3", "010", "null", "1.20", "2026-11-20", "a: b", ""])
def test_text_stays_text_through_yaml(text: str) -> None:
    assert parse_yaml(format_yaml({"key": text})) == {"key": text}


def test_yaml_that_makes_python_objects_is_refused() -> None:
    with pytest.raises(YamlError):
        parse_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nmodel: &model {b: *model}", "line 2: an alias (*) stands inside what it repeats"),
        ("&list [1, *list]", "line 1: an alias (*) stands inside what it repeats"),
        ("[" * 5000, "lie too deep inside each other"),
    ],
)
def test_yaml_without_an_end_is_refused(text: str, problem: str) -> None:
    with pytest.raises(YamlError) as refused:
        parse_yaml(text)
    assert problem in str(refused.value)


def test_an_alias_repeats_what_it_names() -> None:
    same = {"b": [1]}
    assert parse_yaml("a: &same {b: [1]}\nc: [*same, *same]") == {"a": same, "c": [same, same]}


def test_the_resolved_configuration_loads_back_equal(tmp_path: Path) -> None:
    config = from_sets(
        "preprocess.size=[224, 192]",
        "preprocess.scaled_decoding=auto",
        "preprocess.value_range=[-1, 1e-05]",
        "model.handle='off'",
        "failures.max_ratio=1e-3",
        "beam.flink_version='1.20'",
        "beam.experiments=[a, b=1]",
        "beam.streaming=true",
        "beam.region=null",
        "beam.extra_flags=[--x=1]",
    )
    assert resolve(settings_from_file(write(tmp_path, to_yaml(config)))) == config


def test_every_key_stands_in_the_yaml_with_its_default() -> None:
    written = parse_yaml(to_yaml(from_sets()))
    assert isinstance(written, dict)
    for key in config_keys():
        section, name = key.path.split(".")
        assert name in written[section]
        if key.path not in ("input.patterns", "output.path"):
            assert written[section][name] == key.default


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("input.patterns=[]", "input.patterns is missing; give it with --input"),
        ("output.path=null", "output.path is missing; give it with --output"),
        ("output.path=bq://p.d.t", "output.path is 'bq://p.d.t'; a table goes into output.table"),
        ("output.prune=true", "output.prune is true, which needs incremental to be true"),
    ],
)
def test_a_combination_that_cannot_be_is_refused(setting: str, problem: str) -> None:
    (line,) = problems_of(setting)
    assert line.startswith(problem)


# One source of truth


def test_preprocessing_defaults_are_those_of_the_contract() -> None:
    assert PreprocessConfig().contract(299, 299) == Preprocessing(height=299, width=299)


def test_every_field_of_the_contract_is_a_key_that_reaches_it() -> None:
    fields = {field.name for field in dataclasses.fields(Preprocessing)} - {"height", "width"}
    assert set(PreprocessConfig.model_fields) == fields | {"size"}
    other = PreprocessConfig(
        size=(10, 20),
        fit="pad",
        kernel="nearest",
        antialias=False,
        scaled_decoding="auto",
        value_range=(-1.0, 1.0),
        orientation="ignore",
        background=(1, 2, 3),
    )
    contract = other.contract(299, 299)
    assert (contract.height, contract.width) == (10, 20)
    for name in fields:
        assert getattr(contract, name) == getattr(other, name) != getattr(PreprocessConfig(), name)


def test_every_curated_flag_names_a_key() -> None:
    assert set(CURATED_FLAGS.values()) <= {key.path for key in config_keys()}


def test_every_key_says_what_it_is_and_what_it_takes() -> None:
    for key in config_keys():
        assert key.description.endswith(".")
        assert key.allowed


def test_null_leaves_a_flag_of_beam_out() -> None:
    assert BeamConfig(runner="DirectRunner", region=None).flags() == {"runner": "DirectRunner"}


def test_several_copies_need_a_model_that_processes_share() -> None:
    with pytest.raises(RequestError, match="copies is 2, which needs share_between_processes"):
        resolve([*map(setting_from_text, ("model.copies=2", "output.path=o"))])
