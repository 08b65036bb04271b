import pickle
import threading
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from google.api_core import exceptions
from google.cloud import bigquery
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import SSLError

from transforms.bigquery.client import MAX_TRANSIENT_FAILURES, Jobs, TableName, client
from transforms.bigquery.errors import is_transient, request_errors
from transforms.errors import JobError, RefusedData, RequestError

RUN_ID = "20261120T063000Z-0A1b2c3d"


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as warehouse:
        yield warehouse


@pytest.fixture
def jobs(warehouse: Warehouse) -> Jobs:
    return Jobs(warehouse.project, "US", RUN_ID, patience_seconds=20)


@pytest.fixture
def table(warehouse: Warehouse) -> TableName:
    warehouse.query("CREATE TABLE numbers (x INT64)")
    return TableName.parse(warehouse.table("numbers"))


def insert(jobs: Jobs, table: TableName, job_id: str) -> bigquery.QueryJob:
    return jobs.run_query(f"INSERT INTO {table.sql} VALUES (1)", job_id=job_id)


def row_count(warehouse: Warehouse) -> int:
    return int(warehouse.query("SELECT COUNT(*) AS n FROM numbers")[0]["n"])


def job_ids(warehouse: Warehouse, prefix: str) -> list[str]:
    ids = [job["jobReference"]["jobId"] for job in warehouse.jobs()]
    return [each for each in ids if each.startswith(prefix)]


def upload(warehouse: Warehouse, name: str, rows: pa.Table) -> str:
    stream = pa.BufferOutputStream()
    pq.write_table(rows, stream)
    bucket = warehouse.bucket.removeprefix("gs://")
    warehouse.storage.put(name, stream.getvalue().to_pybytes(), bucket=bucket)
    return f"{warehouse.bucket}/{name}"


PARQUET = bigquery.LoadJobConfig(source_format="PARQUET")


@pytest.mark.parametrize(
    "text",
    [
        "bq://my-project.photos.embeddings",
        "my-project.photos.embeddings",
        "example.com:my-project.photos_2.Größe der-Bilder",
    ],
)
def test_a_table_is_named_by_three_parts(text: str) -> None:
    table = TableName.parse(text)
    assert str(table) == text.removeprefix("bq://")
    assert TableName.parse(str(table)) == table
    assert table.sql == f"`{table}`"
    assert table.reference.path.endswith(f"/datasets/{table.dataset}/tables/{table.table}")


@pytest.mark.parametrize(
    "text",
    [
        *("", "bq://", "table", "photos.embeddings", "my-project.photos.a.b", "my-project..a"),
        *("my-project.photos.a`; DROP TABLE b", "my-project.photos.a$20260101"),
        *("my-project.photos.a*", "my-project.my-photos.a", "gs://bucket/a", "My.photos.a"),
        "my-project.photos." + "a" * 1025,
    ],
)
def test_what_names_no_table_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"bq://PROJECT\.DATASET\.TABLE"):
        TableName.parse(text)


def test_a_sibling_lies_in_the_same_dataset_and_has_a_valid_name() -> None:
    table = TableName.parse("my-project.photos.embeddings")
    assert str(table.sibling("_runs")) == "my-project.photos.embeddings_runs"
    with pytest.raises(ValueError, match="is no table"):
        table.sibling("$1")


def test_a_process_has_one_client_for_each_emulator(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client(warehouse.project)
    assert client(warehouse.project) is first
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    assert client(warehouse.project) is not first


def test_a_job_of_one_id_runs_once_however_often_it_is_asked_for(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    for copy in (jobs, jobs, pickle.loads(pickle.dumps(jobs))):
        assert insert(copy, table, "once").state == "DONE"
    assert row_count(warehouse) == 1


def test_two_at_the_same_time_share_a_job(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def ask() -> None:
        try:
            start.wait()
            insert(jobs, table, "shared")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert row_count(warehouse) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [(503, ""), (500, "backendError"), (429, ""), (403, "rateLimitExceeded"), (502, "")],
)
def test_a_request_that_fails_for_the_moment_is_repeated_and_has_its_effect_once(
    warehouse: Warehouse, jobs: Jobs, table: TableName, when: str, status: int, reason: str
) -> None:
    warehouse.plant_fault("POST .*/jobs .*INSERT", status=status, reason=reason, when=when)
    insert(jobs, table, "patient")
    assert row_count(warehouse) == 1


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("backendError", "planted"),
        ("jobRateLimitExceeded", "planted"),
        ("invalidQuery", "Could not serialize access to table numbers due to concurrent update"),
    ],
)
def test_a_job_that_fails_for_the_moment_is_run_again_under_another_id(
    warehouse: Warehouse, jobs: Jobs, table: TableName, reason: str, message: str
) -> None:
    warehouse.plant_fault("POST .*/jobs .*INSERT", when="job", reason=reason, message=message)
    assert insert(jobs, table, "again").job_id == "again_2"
    assert insert(jobs, table, "again").job_id == "again_2"
    assert row_count(warehouse) == 1


def test_a_job_that_fails_for_good_is_not_repeated_until_somebody_asks_again(
    warehouse: Warehouse, jobs: Jobs
) -> None:
    table = TableName.parse(warehouse.table("numbers"))
    with pytest.raises(JobError, match=r"Not found: Table .*numbers.*; correct the name"):
        insert(jobs, table, "late")
    assert job_ids(warehouse, "late") == ["late"]
    warehouse.query("CREATE TABLE numbers (x INT64)")
    assert insert(jobs, table, "late").job_id == "late_2"
    assert row_count(warehouse) == 1


def test_failures_of_earlier_attempts_do_not_count(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    attempts = MAX_TRANSIENT_FAILURES + 1
    warehouse.plant_fault(
        "POST .*/jobs .*INSERT", when="job", reason="accessDenied", times=attempts
    )
    for _ in range(attempts):
        with pytest.raises(JobError, match=r"dataEditor"):
            insert(jobs, table, "granted")
    assert insert(jobs, table, "granted").job_id == f"granted_{attempts + 1}"


def test_a_statement_without_an_id_is_run_each_time(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    for _ in range(2):
        jobs.run_query(f"INSERT INTO {table.sql} VALUES (1)")
    assert row_count(warehouse) == 2


def test_parameters_reach_the_statement(jobs: Jobs) -> None:
    parameters = [
        bigquery.ScalarQueryParameter("a", "STRING", "it's"),
        bigquery.ArrayQueryParameter("b", "INT64", [1, 2]),
    ]
    assert jobs.query_rows("SELECT @a AS a, @b AS b", parameters) == [{"a": "it's", "b": [1, 2]}]


def test_every_job_bears_the_id_of_its_run(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    insert(jobs, table, "labelled")
    uri = upload(warehouse, "one.parquet", pa.table({"x": [1]}))
    jobs.run_load([uri], table, PARQUET, job_id="labelled_load")
    labels = [
        job["configuration"]["labels"]
        for job in warehouse.jobs()
        if job["jobReference"]["jobId"].startswith("labelled")
    ]
    assert labels == [{"application": "embed-images", "run_id": RUN_ID.lower()}] * 2


def test_files_are_loaded_once_under_one_id(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    uris = [upload(warehouse, f"{n}.parquet", pa.table({"x": [n, n]})) for n in range(3)]
    warehouse.plant_fault('POST .*/jobs .*"load"', when="after")
    for _ in range(3):
        job = jobs.run_load(uris, table, PARQUET, job_id="load")
        assert job.job_id == "load"
    assert row_count(warehouse) == 6


def test_a_load_that_fails_once_is_repeated(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    uri = upload(warehouse, "one.parquet", pa.table({"x": [1]}))
    warehouse.plant_fault('POST .*/jobs .*"load"', when="job")
    assert jobs.run_load([uri], table, PARQUET, job_id="load").job_id == "load_2"
    assert row_count(warehouse) == 1


def test_files_that_do_not_fit_are_refused_each_time_by_the_one_job(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    uri = upload(warehouse, "bad.parquet", pa.table({"x": ["no number"]}))
    for _ in range(2):
        with pytest.raises(RefusedData, match="no number"):
            jobs.run_load([uri], table, PARQUET, job_id="bad")
    assert job_ids(warehouse, "bad") == ["bad"]


def test_files_of_another_schema_are_not_taken_for_bad_rows(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    message = "Provided Schema does not match Table numbers. Field x has changed type"
    warehouse.plant_fault('POST .*"load"', when="job", reason="invalid", message=message)
    with pytest.raises(JobError, match="does not match") as caught:
        jobs.run_load(["gs://b/x.parquet"], table, PARQUET, job_id="schema")
    assert not isinstance(caught.value, RefusedData)


def test_tables_are_made_looked_at_and_deleted_again_and_again(
    warehouse: Warehouse, jobs: Jobs
) -> None:
    name = TableName.parse(warehouse.table("made"))
    assert jobs.get_table(name) is None
    for _ in range(2):
        jobs.create_table(bigquery.Table(name.reference, [bigquery.SchemaField("x", "INT64")]))
    found = jobs.get_table(name)
    assert found is not None
    assert [field.name for field in found.schema] == ["x"]
    for _ in range(2):
        jobs.delete_table(name)
    assert jobs.get_table(name) is None


def test_a_dataset_that_is_not_there_is_said_to_be_created(jobs: Jobs) -> None:
    name = TableName(jobs.project, "nowhere", "t")
    with pytest.raises(JobError, match=r"nowhere; create the dataset with `bq mk --dataset"):
        jobs.get_table(name)
    with pytest.raises(RequestError, match="bq mk --dataset"), request_errors():
        jobs.dataset_location(name)


@pytest.mark.parametrize(
    ("status", "reason", "message", "advice"),
    [
        (
            403,
            "accessDenied",
            "Access Denied: Project p: User does not have bigquery.jobs.create permission",
            "grant roles/bigquery.jobUser on the project test-project",
        ),
        (
            403,
            "accessDenied",
            "Access Denied: Table p:d.t: Permission bigquery.tables.updateData denied",
            "grant roles/bigquery.dataEditor on the dataset",
        ),
        (
            403,
            "accessDenied",
            "Access Denied: File gs://b/x: robot does not have storage.objects.get access",
            "grant roles/storage.objectUser on the bucket",
        ),
        (403, "billingNotEnabled", "Billing has not been enabled", "enable billing for the proj"),
        (403, "quotaExceeded", "Quota exceeded: Your table exceeded quota", "wait until the quota"),
        (404, "notFound", "Not found: Project nowhere", "correct the project"),
        (400, "invalidQuery", "Syntax error: Unexpected keyword", "correct the query"),
    ],
)
@pytest.mark.parametrize("when", ["before", "job"])
def test_what_is_refused_says_what_to_grant_or_change_and_is_not_repeated(
    warehouse: Warehouse,
    jobs: Jobs,
    table: TableName,
    when: str,
    status: int,
    reason: str,
    message: str,
    advice: str,
) -> None:
    warehouse.plant_fault(
        "POST .*/jobs .*INSERT", when=when, status=status, reason=reason, message=message
    )
    with pytest.raises(JobError) as caught:
        insert(jobs, table, f"refused_{reason}")
    assert message in str(caught.value)
    assert advice in str(caught.value)
    assert "http://" not in str(caught.value)
    assert row_count(warehouse) == 0


def test_what_never_gets_better_is_given_up(
    warehouse: Warehouse, jobs: Jobs, table: TableName
) -> None:
    hasty = Jobs(jobs.project, "US", patience_seconds=0.5)
    warehouse.plant_fault("POST .*/jobs .*INSERT", message="no luck today", times=1000)
    with pytest.raises(JobError, match=r"BigQuery keeps failing.*no luck today"):
        insert(hasty, table, "hopeless")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.TooManyRequests("slow down"), True),
        (exceptions.ServiceUnavailable("later"), True),
        (exceptions.GatewayTimeout("later"), True),
        (exceptions.Forbidden("no", errors=[{"reason": "rateLimitExceeded"}]), True),
        (exceptions.BadRequest("Could not serialize access to table t"), True),
        (exceptions.BadRequest("Transaction is aborted due to concurrent update"), True),
        (RequestsConnectionError("reset"), True),
        (ConnectionResetError("reset"), True),
        (SSLError("certificate"), False),
        (exceptions.Forbidden("no", errors=[{"reason": "accessDenied"}]), False),
        (exceptions.Forbidden("no", errors=[{"reason": "quotaExceeded"}]), False),
        (exceptions.NotFound("no"), False),
        (exceptions.BadRequest("no"), False),
        (ValueError("no"), False),
    ],
)
def test_only_what_may_pass_is_worth_repeating(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected
