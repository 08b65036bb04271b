"""Where a run writes, from what it starts, and what of earlier runs keeps it from starting."""

import datetime
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from bigquery_emulator import Warehouse, bigquery_emulator
from incremental_folders import embedding, entries, made_by, put_run, run_id
from run_counts import run_counts
from table_runs import tables

from pipeline.config import OutputConfig
from pipeline.destination import (
    Destination,
    destination_facts,
    prepare_destination,
    recorded_sets,
    refuse_other_models,
    set_of,
    settle_destination,
)
from transforms.bigquery.client import TableName
from transforms.bigquery.runs import record_run
from transforms.bigquery.table import prepare_table
from transforms.errors import RequestError
from transforms.folders.output_folder import read_claim
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.incremental_runs import VectorSet
from transforms.records import CarriedColumn, OutputLayout
from transforms.storage.output_storage import paths_starting_with

HERE = PipelineOptions([])
LAYOUT = OutputLayout(4)
COLUMNS = (CarriedColumn("label"),)
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        yield warehouse


def temporary(warehouse: Warehouse) -> PipelineOptions:
    return PipelineOptions([f"--temp_location={warehouse.bucket}/temp"])


def settle(output: OutputConfig, options: PipelineOptions = HERE) -> Destination:
    destination, _ = settle_destination(output, options)
    return destination


def prepare(destination: Destination, output: OutputConfig) -> None:
    prepare_destination(destination, output, LAYOUT, COLUMNS, made_by())


def test_a_plain_run_writes_into_the_folder_itself(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    output = OutputConfig(path=folder, formats=("parquet", "tfrecord"))
    destination, sets = settle_destination(output, HERE)
    assert (destination.folder, destination.run_folder) == (folder, folder)
    assert destination.formats == ("parquet", "tfrecord")
    assert sets == {}
    assert (destination.table, destination.record) == (None, None)
    assert not destination.has_ledger
    assert destination.in_words() == folder


def test_the_id_of_a_run_begins_with_its_start(tmp_path: Path) -> None:
    destination = settle(OutputConfig(path=str(tmp_path / "out")))
    assert RUN_ID.fullmatch(destination.run_id)
    assert destination.run_id.startswith(f"{destination.started_at:%Y%m%dT%H%M%S}Z-")
    age = datetime.datetime.now(datetime.UTC) - destination.started_at
    assert age < datetime.timedelta(minutes=1)


def test_two_runs_of_the_same_second_have_ids_and_folders_of_their_own(tmp_path: Path) -> None:
    output = OutputConfig(path=str(tmp_path), incremental=True)
    assert len({settle(output).run_folder for _ in range(20)}) == 20


def test_an_incremental_run_starts_from_the_runs_that_nobody_has_started_from(
    tmp_path: Path,
) -> None:
    images = [embedding(f"/{n}.jpg", n, n) for n in range(4)]
    put_run(tmp_path, 1, images[:1], entries(1, images[:1]))
    both = [*entries(1, images[:1]), *entries(2, images[1:2])]
    put_run(tmp_path, 2, images[1:2], both, parents=[1])
    overlapping = [*entries(1, images[:1]), *entries(3, images[2:3])]
    put_run(tmp_path, 3, images[2:3], overlapping, parents=[1])
    put_run(tmp_path, 4, images[3:], entries(4, images[3:]), parents=[2, 3], complete=False)

    output = OutputConfig(path=str(tmp_path), incremental=True)
    destination, sets = settle_destination(output, HERE)
    assert destination.run_folder == f"{tmp_path}/runs/{destination.run_id}"
    assert destination.parents == (run_id(2), run_id(3))
    assert destination.manifests == tuple(
        f"{tmp_path}/runs/{run_id(n)}/manifest-00000-of-00001.parquet" for n in (2, 3)
    )
    assert destination.known_runs == {run_id(n) for n in (1, 2, 3)}
    assert destination.has_ledger
    [found] = sets[str(tmp_path)]
    assert found.provenance == made_by()


def test_a_table_alone_has_its_runs_below_the_temporary_location(warehouse: Warehouse) -> None:
    table = warehouse.table("photos")
    destination, sets = settle_destination(OutputConfig(table=table), temporary(warehouse))
    run_folder = f"{warehouse.bucket}/temp/embed-images/{destination.run_id}"
    assert destination.run_folder == run_folder
    assert destination.staging_folder == f"{run_folder}/rows"
    assert destination.formats == ()
    assert sets == {f"bq://{table}": ()}
    assert destination.in_words() == f"bq://{table}"
    assert not replace(destination, incremental=True).has_ledger, "the table is the ledger"


def test_a_table_beside_a_folder_has_its_run_in_the_folder(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    table = warehouse.table("photos")
    output = OutputConfig(path=str(tmp_path), table=table, incremental=True)
    destination, sets = settle_destination(output, temporary(warehouse))
    assert destination.run_folder == f"{tmp_path}/runs/{destination.run_id}"
    run_id = destination.run_id
    assert destination.staging_folder == f"{warehouse.bucket}/temp/embed-images/{run_id}/rows"
    assert destination.formats == ("tfrecord",)
    assert destination.has_ledger
    assert list(sets) == [str(tmp_path), f"bq://{table}"]
    assert destination.in_words() == f"{tmp_path} and bq://{table}"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--temp_location is missing"),
        (["--temp_location=/tmp"], "--temp_location is /tmp"),
        (["--temp_location=s3://b/temp"], "--temp_location is s3://b/temp"),
    ],
)
def test_a_table_needs_a_bucket_for_its_files(flags: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=f"^{told}; .*--temp_location=gs://BUCKET"):
        settle(OutputConfig(table="project-1.photos.rows"), PipelineOptions(flags))


def test_a_folder_needs_none(tmp_path: Path) -> None:
    settle(OutputConfig(path=str(tmp_path / "out")), PipelineOptions(["--temp_location=/tmp"]))


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(RequestError, match=r"PROJECT\.DATASET\.TABLE"):
        settle(OutputConfig(table="photos.rows"), PipelineOptions(["--temp_location=gs://b/t"]))


def test_settling_keeps_an_older_output_and_only_preparing_removes_it(tmp_path: Path) -> None:
    left = [tmp_path / "embeddings-00000-of-00001.tfrecord", tmp_path / "_SUCCESS"]
    for path in left:
        path.touch()
    with pytest.raises(RequestError, match="--overwrite"):
        settle(OutputConfig(path=str(tmp_path)))
    output = OutputConfig(path=str(tmp_path), overwrite=True, formats=("parquet",))
    destination = settle(output)
    assert sorted(tmp_path.iterdir()) == sorted(left)
    prepare(destination, output)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert read_claim(str(tmp_path)) == destination.run_id


def test_preparing_an_incremental_run_touches_no_other(tmp_path: Path) -> None:
    first = put_run(tmp_path, 1, [embedding("/a.jpg", 1, 1)])
    before = {path: path.read_bytes() for path in first.iterdir()}
    output = OutputConfig(path=str(tmp_path), incremental=True)
    destination = settle(output)
    assert list((tmp_path / "runs").iterdir()) == [first]
    prepare(destination, output)
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    made = Path(destination.run_folder)
    assert sorted(path.name for path in made.iterdir()) == ["run.json", "schema.pbtxt"]
    assert read_claim(str(made)) == destination.run_id
    assert "label" in (made / "schema.pbtxt").read_text()


def test_preparing_makes_the_table_for_the_rows_and_that_of_its_runs(warehouse: Warehouse) -> None:
    output = OutputConfig(table=warehouse.table("photos"))
    destination = settle(output, temporary(warehouse))
    prepare(destination, output)
    columns = warehouse.client().get_table(warehouse.table("photos")).schema
    assert "label" in {field.name for field in columns}
    assert warehouse.query("SELECT * FROM photos_runs") == []
    assert read_claim(destination.run_folder) == destination.run_id


def test_a_table_that_does_not_fit_leaves_an_older_output_in_the_folder(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.query("CREATE TABLE photos (uri INT64)")
    (tmp_path / "_SUCCESS").touch()
    table = warehouse.table("photos")
    output = OutputConfig(path=str(tmp_path), table=table, overwrite=True)
    destination = settle(output, temporary(warehouse))
    with pytest.raises(RequestError, match="uri is INT64"):
        prepare(destination, output)
    assert [path.name for path in tmp_path.iterdir()] == ["_SUCCESS"]


def report(made: int, model: Provenance, status: str = "complete") -> dict[str, Any]:
    """The report of a run, as far as a table of runs is asked for it."""
    destination = Destination(run_id(made), datetime.datetime.now(datetime.UTC), None, "gs://b/t")
    return {
        **destination_facts(destination),
        "finished_at": destination.started_at.isoformat(),
        "status": status,
        "counts": run_counts(found=1, embedded=1),
        "model": {
            "handle": model.model_handle,
            "fingerprint": model.model_fingerprint,
            "precision": model.precision,
        },
        "outputs": {
            "embedding_width": 4,
            "classes": 0,
            "writes_logits": False,
            "top_classes": 0,
        },
        "preprocessing": {"fingerprint": model.preprocess_fingerprint},
        "columns": [{"name": "label", "kind": "string"}],
    }


def put_row(warehouse: Warehouse, model: Provenance) -> None:
    warehouse.query(
        "INSERT INTO photos (uri, model_fingerprint, preprocess_fingerprint, `precision`) VALUES "
        f"('a', '{model.model_fingerprint}', '{model.preprocess_fingerprint}', '{model.precision}')"
    )


def test_a_table_holds_what_its_complete_runs_have_made(warehouse: Warehouse) -> None:
    table = TableName.parse(warehouse.table("photos"))
    assert recorded_sets(table) == ()
    prepare_table(table, LAYOUT, COLUMNS, made_by())
    assert recorded_sets(table) == ()
    for model in ("m1", "m2", "m3"):
        put_row(warehouse, made_by(model))
    record_run(table, report(1, made_by("m1")))
    record_run(table, report(2, made_by("m2")))
    record_run(table, report(3, made_by("m3"), status="failed"))
    record_run(table, {**report(4, made_by("m1")), "columns": []})
    found = recorded_sets(table)
    assert {one.provenance for one in found} == {made_by("m1"), made_by("m2")}
    columns = {one.provenance.model_fingerprint: one.columns for one in found}
    assert columns == {"m1": (), "m2": COLUMNS}
    assert {one.layout for one in found} == {LAYOUT}


def test_a_run_that_was_killed_while_it_merged_counts_if_its_rows_are_there(
    warehouse: Warehouse,
) -> None:
    table = TableName.parse(warehouse.table("photos"))
    prepare_table(table, LAYOUT, COLUMNS, made_by())
    record_run(table, report(1, made_by("m1"), status="merging"))
    record_run(table, report(2, made_by("m2"), status="merging"))
    assert recorded_sets(table) == ()
    put_row(warehouse, made_by("m1"))
    [found] = recorded_sets(table)
    assert (found.provenance, found.columns) == (made_by("m1"), COLUMNS)


@pytest.mark.parametrize("statement", ["DROP TABLE photos", "DELETE FROM photos WHERE TRUE"])
def test_a_table_that_was_dropped_or_emptied_holds_nothing_whatever_its_runs_say(
    warehouse: Warehouse, statement: str
) -> None:
    table = TableName.parse(warehouse.table("photos"))
    prepare_table(table, LAYOUT, COLUMNS, made_by())
    put_row(warehouse, made_by())
    record_run(table, report(1, made_by()))
    assert len(recorded_sets(table)) == 1
    warehouse.query(statement)
    assert recorded_sets(table) == ()


@pytest.mark.parametrize(
    ("request_sent", "permission"),
    [
        (r"POST .*/tables .*photos_staging_", "bigquery.tables.create"),
        (r'POST .*/jobs .*"MERGE INTO `[^`]*photos`', "bigquery.tables.updateData"),
        (r'POST .*/jobs .*"MERGE INTO `[^`]*photos_runs`', "bigquery.tables.updateData"),
        (r"DELETE .*/tables/photos_staging_", "bigquery.tables.delete"),
    ],
)
def test_a_permission_that_is_missing_is_found_before_anything_is_written(
    warehouse: Warehouse, request_sent: str, permission: str
) -> None:
    output = OutputConfig(table=warehouse.table("photos"), incremental=True)
    destination = settle(output, temporary(warehouse))
    message = f"Access Denied: Permission {permission} denied on table"
    warehouse.plant_fault(request_sent, status=403, reason="accessDenied", message=message)
    with pytest.raises(RequestError, match=rf"{permission}.*; grant roles/bigquery\.dataEditor"):
        prepare(destination, output)
    assert not paths_starting_with(f"{warehouse.bucket}/")
    if permission != "bigquery.tables.delete":
        assert tables(warehouse) == {"photos", "photos_runs"}


class _NoSessions(grpc.GenericRpcHandler):
    """Answers what is asked of the Storage Read API as it answers an account without its role."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def refuse(request: bytes, context: grpc.ServicerContext) -> None:
            permission = "Permission 'bigquery.readsessions.create' denied on project"
            context.abort(grpc.StatusCode.PERMISSION_DENIED, permission)

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def no_read_sessions(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(1), [_NoSessions()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("BIGQUERY_STORAGE_EMULATOR_HOST", f"127.0.0.1:{port}")
    yield
    server.stop(None)


@pytest.mark.usefixtures("no_read_sessions")
def test_only_a_run_that_reads_the_table_needs_the_role_for_it(warehouse: Warehouse) -> None:
    output = OutputConfig(table=warehouse.table("photos"), incremental=True)
    destination = settle(output, temporary(warehouse))
    project = warehouse.project
    advice = rf"grant roles/bigquery\.readSessionUser on the project {project}"
    with pytest.raises(RequestError, match=advice):
        prepare(destination, output)
    assert tables(warehouse) == {"photos", "photos_runs"}
    prepare(replace(destination, incremental=False), output)
    assert read_claim(destination.run_folder) == destination.run_id
    assert tables(warehouse) == {"photos", "photos_runs"}


def test_a_dataset_that_is_not_there_is_a_wrong_request(warehouse: Warehouse) -> None:
    with pytest.raises(RequestError, match="create the dataset"):
        recorded_sets(TableName.parse(f"{warehouse.project}.nowhere.photos"))


def a_set(model: Provenance) -> VectorSet:
    return VectorSet(model, LAYOUT, (), {})


def test_a_set_is_found_by_its_fingerprints_and_precision_not_by_the_handle() -> None:
    sets = [a_set(made_by("m1")), a_set(made_by("m2"))]
    moved = replace(made_by("m2"), model_handle="gs://elsewhere/model")
    assert set_of(sets, moved) is sets[1]
    for change in (
        {"model_fingerprint": "m3"},
        {"preprocess_fingerprint": "p2"},
        {"precision": "float16"},
    ):
        assert set_of(sets, replace(made_by("m1"), **change)) is None


def test_another_model_is_refused_where_any_output_holds_only_others() -> None:
    ours, other = a_set(made_by("m1")), a_set(made_by("m2"))
    refuse_other_models({"out": (), "bq://p.d.t": ()}, made_by("m1"))
    refuse_other_models({"out": (other, ours), "bq://p.d.t": (ours,)}, made_by("m1"))
    with pytest.raises(RequestError, match=r"^bq://p\.d\.t holds vectors of /models/m2") as refused:
        refuse_other_models({"out": (ours,), "bq://p.d.t": (other,)}, made_by("m1"))
    assert "/models/m1 (fingerprint m1, preprocessing p1, float32)" in str(refused.value)
    assert "--allow-other-models" in str(refused.value)


def test_what_run_json_says_of_the_destination_is_json() -> None:
    started = datetime.datetime(2026, 11, 20, 6, 30, 0, 123_456, datetime.UTC)
    destination = Destination("the-run", started, "/out", "/out/runs/the-run", parents=("a",))
    said = destination_facts(destination)
    assert json.loads(json.dumps(said)) == said
    assert said == {
        "run_id": "the-run",
        "started_at": "2026-11-20T06:30:00.123+00:00",
        "parents": ["a"],
        "table": None,
    }


def test_the_row_of_a_run_goes_beside_its_table(warehouse: Warehouse) -> None:
    output = OutputConfig(table=warehouse.table("photos"))
    destination = settle(output, temporary(warehouse))
    prepare(destination, output)
    assert destination.record is not None
    said = {**report(1, made_by()), **destination_facts(destination)}
    destination.record(said)
    [row] = warehouse.query("SELECT run_id, embedded FROM photos_runs")
    assert row == {"run_id": destination.run_id, "embedded": 1}
