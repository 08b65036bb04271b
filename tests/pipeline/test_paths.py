"""Which paths workers can see, and what local paths are in full."""

from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import InputConfig, JobConfig, ModelConfig, OutputConfig
from pipeline.paths import refuse_local_paths_on_dataflow, with_absolute_paths
from transforms.errors import RequestError, UnusableModel

ON_DATAFLOW = PipelineOptions(["--runner=DataflowRunner"])
MODEL = ModelConfig(handle="gs://b/model")
HERE = PipelineOptions([])
TABLE = "project-1.photos.embeddings"


def job(*patterns: str, model: ModelConfig = MODEL, **output: Any) -> JobConfig:
    return JobConfig(
        input=InputConfig(patterns=patterns),
        output=OutputConfig(**output or {"path": "gs://b/out"}),
        model=model,
    )


@pytest.mark.parametrize(
    "local", ["photos", "@list.txt", "@/lists/photos.csv", "tfrecord:/photos/*", "file:///photos"]
)
def test_dataflow_is_refused_an_input_on_this_machine(local: str) -> None:
    config = job("gs://b/photos", local)
    refuse_local_paths_on_dataflow(config, HERE)
    path = local.removeprefix("@").removeprefix("tfrecord:")
    with pytest.raises(RequestError, match="use a gs:// path") as refused:
        refuse_local_paths_on_dataflow(config, ON_DATAFLOW)
    assert f" {path}," in str(refused.value)


def test_dataflow_is_refused_a_folder_on_this_machine_beside_a_table() -> None:
    config = job("gs://b/photos", path="/out", table=TABLE)
    refuse_local_paths_on_dataflow(config, HERE)
    with pytest.raises(RequestError, match="/out"):
        refuse_local_paths_on_dataflow(config, ON_DATAFLOW)


def test_dataflow_takes_all_that_lies_elsewhere() -> None:
    patterns = ("gs://b/photos", "@gs://b/list.txt", "tfrecord:gs://b/p", f"bq://{TABLE}")
    config = job(*patterns, "https://h/a.jpg", table=TABLE)
    refuse_local_paths_on_dataflow(config, ON_DATAFLOW)


@pytest.mark.parametrize("prefix", ["", "@", "tfrecord:"])
def test_local_inputs_become_absolute_behind_what_says_their_kind(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(job(f"{prefix}photos/*", f"{prefix}/photos"))
    assert config.input.patterns == (f"{prefix}{tmp_path}/photos/*", f"{prefix}/photos")


def test_what_lies_elsewhere_stays_as_it_is() -> None:
    patterns = ("gs://b/p/", "@gs://b/list.txt", "tfrecord:gs://b/p", f"bq://{TABLE}", "http://h/a")
    config = job(*patterns, path="gs://b/out/", table=TABLE)
    assert with_absolute_paths(config) == config


def test_an_output_and_labels_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(handle="gs://b/m", outputs=("top_classes",), labels="labels.txt")
    config = with_absolute_paths(job("gs://b/p", path="out", model=model))
    assert config.output.path == f"{tmp_path}/out"
    assert config.model.labels == f"{tmp_path}/labels.txt"


def test_without_a_folder_there_is_none_afterwards() -> None:
    assert with_absolute_paths(job("gs://b/p", table=TABLE)).output.path is None


def test_a_model_in_a_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    config = with_absolute_paths(job("gs://b/p", model=ModelConfig(handle="mine")))
    assert config.model.handle == f"{tmp_path}/mine"


def test_weights_go_into_the_handle_so_that_the_provenance_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(handle="keras:inception_resnet_v2", weights="mine.h5")
    config = with_absolute_paths(job("gs://b/p", model=model))
    assert config.model.handle == f"keras:inception_resnet_v2?weights={tmp_path}/mine.h5"
    assert config.model.weights is None


def test_weights_of_a_model_that_has_its_own_are_refused() -> None:
    model = ModelConfig(handle="gs://b/model", weights="/mine.h5")
    with pytest.raises(UnusableModel, match="has its own"):
        with_absolute_paths(job("gs://b/p", model=model))


def test_nothing_else_of_the_configuration_changes(tmp_path: Path) -> None:
    config = job("photos", path="out")
    changed = with_absolute_paths(config).model_dump()
    expected = config.model_dump()
    expected["input"]["patterns"] = (f"{Path.cwd()}/photos",)
    expected["output"]["path"] = f"{Path.cwd()}/out"
    assert changed == expected
