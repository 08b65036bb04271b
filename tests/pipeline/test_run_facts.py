"""What run.json says of a run besides its outcome."""

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import InputConfig, JobConfig, ModelConfig, OutputConfig
from pipeline.destination import Destination
from pipeline.recorded_run import recorded_run
from pipeline.run_facts import run_facts
from transforms.bigquery.client import TableName
from transforms.ledgers.incremental_runs import vector_sets
from transforms.models.model_description import ModelDescription
from transforms.records import CarriedColumn, OutputLayout, Preprocessing

CONTRACT = Preprocessing(299, 299, fit="pad")
DESCRIPTION = ModelDescription("/models/mine", 299, 299, (), "0123456789abcdef", True, True)
STARTED_AT = datetime.datetime(2026, 11, 20, 6, 30, 0, 123_000, datetime.UTC)
DESTINATION = Destination("20261120T063000Z-0123abcd", STARTED_AT, "/out", "/out/runs/r")
COLUMNS = (CarriedColumn("label"), CarriedColumn("price", "float64"))
LAYOUT = OutputLayout(8, 3, writes_logits=True, top_classes=2)


def facts(
    *flags: str,
    destination: Destination = DESTINATION,
    layout: OutputLayout = LAYOUT,
    columns: Sequence[CarriedColumn] = COLUMNS,
    **model: Any,
) -> dict[str, Any]:
    config = JobConfig(
        input=InputConfig(patterns=("/photos",)),
        output=OutputConfig(path="/out", formats=("parquet",)),
        model=ModelConfig(handle="/models/mine", **model),
    )
    options = PipelineOptions(list(flags))
    found = run_facts(
        config, options, destination, DESCRIPTION, "float32", CONTRACT, layout, columns
    )
    # As it is in the file.
    as_read: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return as_read


def test_an_incremental_run_can_go_on_from_what_is_said_of_this_one() -> None:
    said = facts()
    [found] = vector_sets({said["run_id"]: said})
    assert found.provenance.model_handle == "/models/mine"
    assert found.provenance.model_fingerprint == "0123456789abcdef"
    assert found.provenance.preprocess_fingerprint == CONTRACT.fingerprint()
    assert found.provenance.precision == "float32"
    assert found.layout == LAYOUT
    assert found.columns == COLUMNS


def test_search_can_repeat_what_is_said_of_this_run() -> None:
    recorded = recorded_run({**facts(), "status": "complete"}, "run.json")
    assert recorded.preprocessing == CONTRACT
    assert recorded.embedding_width == 8
    assert recorded.untrained


def test_the_run_its_start_and_what_it_started_from_are_named() -> None:
    said = facts(
        destination=dataclasses.replace(
            DESTINATION, parents=("a", "b"), table=TableName.parse("project-1.photos.rows")
        )
    )
    assert said["run_id"] == "20261120T063000Z-0123abcd"
    assert said["started_at"] == "2026-11-20T06:30:00.123+00:00"
    assert said["parents"] == ["a", "b"]
    assert said["table"] == "project-1.photos.rows"
    assert facts()["parents"] == []
    assert facts()["table"] is None


def test_a_run_without_an_embedding_has_no_width() -> None:
    said = facts(layout=OutputLayout(0, 3, writes_logits=True))
    assert said["model"]["embedding_width"] is None
    assert said["outputs"]["embedding_width"] == 0


def test_labels_are_named_by_their_file() -> None:
    said = facts(outputs=("embedding", "top_classes"), labels="/labels.txt")
    assert said["outputs"]["labels"] == "/labels.txt"


def test_the_configuration_and_the_versions_are_there() -> None:
    said = facts()
    assert said["config"]["output"]["formats"] == ["parquet"]
    assert said["config"]["preprocess"]["fit"] == "squash"
    assert said["versions"]["apache-beam"] == importlib.metadata.version("apache-beam")
    assert said["versions"]["python"]


def test_flags_of_beam_are_told_as_they_count_and_not_as_they_were_given() -> None:
    said = facts("--direct_num_workers=3", "--temp_location=gs://b/temp")
    assert said["beam_options"]["direct_num_workers"] == 3
    assert said["beam_options"]["temp_location"] == "gs://b/temp"
    assert "beam" not in said["config"]
    assert "runner" not in said["beam_options"], "defaults are left out"


@pytest.mark.parametrize(
    "flag",
    [
        "--s3_secret_access_key=hunter2",
        "--azure_connection_string=AccountName=x;AccountKey=hunter2",
        "--experiments=x_token=hunter2",
        "--labels=password=hunter2",
    ],
)
def test_secrets_are_not_told(flag: str) -> None:
    said = facts(flag)
    assert "hunter2" not in json.dumps(said)
    assert "(not shown)" in json.dumps(said["beam_options"])


def test_no_password_and_no_signature_of_the_inputs_is_said() -> None:
    config = JobConfig(
        input=InputConfig(
            patterns=(
                "https://me:hunter2@host/a.jpg",
                "https://host/b.jpg?X-Goog-Signature=s1gned",
            ),
        ),
        output=OutputConfig(path="/out"),
        model=ModelConfig(handle="https://host/model.tar.gz?token=xyz"),
    )
    said = run_facts(
        config, PipelineOptions([]), DESTINATION, DESCRIPTION, "float32", CONTRACT, LAYOUT, ()
    )
    text = json.dumps(said)
    assert not any(secret in text for secret in ("hunter2", "s1gned", "xyz"))
    assert "https://(not shown)@host/a.jpg" in text
