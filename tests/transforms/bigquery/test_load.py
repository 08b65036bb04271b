"""Files into a staging table: each row once, whatever is repeated, and refused rows alone."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
from bigquery_emulator import Warehouse, bigquery_emulator
from google.cloud.bigquery import SchemaField
from table_runs import FIRST, embedding, new_table, stamp, write_file

from transforms.bigquery import load as bigquery_load
from transforms.bigquery.client import Jobs, TableName
from transforms.bigquery.load import (
    LoadResult,
    create_staging,
    gone_table,
    load_files,
    run_jobs,
    staging_table,
)
from transforms.bigquery.schema import table_schema
from transforms.errors import JobError
from transforms.records import CarriedColumn, Embedding, OutputLayout

LABEL = (CarriedColumn("label"),)
STAMP = stamp(FIRST, columns=LABEL)


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with bigquery_emulator() as emulated:
        yield emulated


class Staging:
    """An empty staging table, whose labels may be made INT64, so that it refuses words."""

    def __init__(self, warehouse: Warehouse, label_type: str = "STRING") -> None:
        self.warehouse = warehouse
        self.name = TableName.parse(warehouse.table("staging"))
        self.jobs = Jobs(warehouse.project, run_id=FIRST)
        fields = [
            field if field.name != "label" else SchemaField("label", label_type)
            for field in table_schema(OutputLayout(3), LABEL)
        ]
        create_staging(self.jobs, self.name, fields)

    def load(self, *files: str) -> LoadResult:
        return load_files(self.jobs, self.name, FIRST, files)

    def uris(self) -> list[str]:
        rows = self.warehouse.query("SELECT uri FROM staging ORDER BY uri")
        return [row["uri"] for row in rows]

    def loads(self) -> list[int]:
        """The numbers of files of the load jobs so far."""
        configurations = [job["configuration"] for job in self.warehouse.jobs()]
        return [len(made["load"]["sourceUris"]) for made in configurations if "load" in made]


def labelled(*labels: str) -> list[Embedding]:
    return [embedding(f"image {label}", carried=(label,)) for label in labels]


def test_every_row_is_loaded_as_it_is(warehouse: Warehouse) -> None:
    staging = Staging(warehouse)
    rows = [embedding("a", 1234.567891, 1 / 3, ("größe",)), embedding("b", carried=(None,))]
    assert staging.load(write_file(warehouse, rows, STAMP)) == LoadResult(2, ())
    [first, second] = warehouse.query(
        "SELECT *, UNIX_MICROS(embedded_at) AS micros FROM staging ORDER BY uri"
    )
    assert first["embedding"] == [float(value) for value in rows[0].vector]
    assert first["micros"] == 1_234_567_891
    assert (first["label"], second["label"]) == ("größe", None)
    assert (first["generation"], first["width"], first["format"]) == ("7", 30, "PNG")


def test_loading_again_adds_nothing_and_counts_the_same(warehouse: Warehouse) -> None:
    staging = Staging(warehouse)
    files = [write_file(warehouse, labelled(label), STAMP) for label in "abc"]
    assert staging.load(*files) == LoadResult(3, ())
    # A step that is tried again may see its files in another order.
    assert staging.load(*reversed(files)) == LoadResult(3, ())
    assert staging.uris() == ["image a", "image b", "image c"]


def test_also_after_the_staging_table_was_dropped_the_count_is_known(
    warehouse: Warehouse,
) -> None:
    staging = Staging(warehouse)
    file = write_file(warehouse, labelled("a"), STAMP)
    staging.load(file)
    staging.jobs.delete_table(staging.name)
    assert staging.load(file) == LoadResult(1, ())


def test_more_files_than_a_job_takes_go_into_several_jobs(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bigquery_load.MAX_FILES_PER_JOB == 10_000
    monkeypatch.setattr(bigquery_load, "MAX_FILES_PER_JOB", 2)
    staging = Staging(warehouse)
    files = [write_file(warehouse, labelled(label), STAMP) for label in "abcde"]
    assert staging.load(*files) == LoadResult(5, ())
    assert staging.loads() == [2, 2, 1]
    assert len(staging.uris()) == 5


def test_no_file_is_no_job(warehouse: Warehouse) -> None:
    staging = Staging(warehouse)
    assert staging.load() == LoadResult(0, ())
    assert staging.loads() == []


@pytest.mark.parametrize(
    ("when", "status", "reason"),
    [("before", 503, "backendError"), ("after", 503, "backendError"), ("job", 200, "backendError")],
)
def test_a_load_that_fails_once_loads_every_row_once(
    warehouse: Warehouse, when: str, status: int, reason: str
) -> None:
    staging = Staging(warehouse)
    file = write_file(warehouse, labelled("a", "b"), STAMP)
    warehouse.plant_fault(r'POST .*/jobs .*"load"', when=when, status=status, reason=reason)  # type: ignore[arg-type]
    assert staging.load(file) == LoadResult(2, ())
    assert staging.uris() == ["image a", "image b"]


def test_the_rows_that_are_refused_are_found_and_the_others_loaded(warehouse: Warehouse) -> None:
    staging = Staging(warehouse, label_type="INT64")
    good = [str(number) for number in range(20)]
    files = [
        write_file(warehouse, labelled(*good[:10]), STAMP),
        write_file(warehouse, labelled(*good[10:13], "cat", *good[13:], "dog"), STAMP),
        write_file(warehouse, labelled("bird"), STAMP),
    ]
    result = staging.load(*files)
    assert result.row_count == 20
    refused = {record.row["uri"][0].as_py(): record.reason for record in result.refused}
    assert set(refused) == {"image cat", "image dog", "image bird"}
    assert "cat" in refused["image cat"]
    assert staging.uris() == sorted(f"image {label}" for label in good)


def test_a_worker_that_dies_among_refused_rows_comes_to_the_same_end(
    warehouse: Warehouse,
) -> None:
    staging = Staging(warehouse, label_type="INT64")
    file = write_file(warehouse, labelled("1", "2", "cat", "3"), STAMP)
    # Of the load of the second half nobody hears.
    warehouse.plant_fault(
        r'POST .*/jobs .*"load".*rows-2-4', status=403, reason="accessDenied", when="after"
    )
    with pytest.raises(JobError):
        staging.load(file)
    result = staging.load(file)
    assert result.row_count == 3
    assert [record.row["uri"][0].as_py() for record in result.refused] == ["image cat"]
    assert staging.uris() == ["image 1", "image 2", "image 3"]


def test_where_nearly_all_is_refused_the_job_fails_with_the_reason(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery_load, "MAX_REFUSED_IN_A_ROW", 5)
    staging = Staging(warehouse, label_type="INT64")
    file = write_file(warehouse, labelled(*(f"word {n}" for n in range(16))), STAMP)
    with pytest.raises(JobError, match=r"refused 6 loads .* in a row.*word"):
        staging.load(file)
    assert len(staging.loads()) == 6


def scattered(bad: int, *, good_between: int) -> list[Embedding]:
    """Rows of which every so many cannot be loaded."""
    labels = []
    for number in range(bad):
        labels += [str(good_between * number + n) for n in range(good_between)]
        labels.append(f"word {number}")
    return labelled(*labels)


def test_bad_rows_far_from_each_other_are_all_found_however_many_loads_they_cost(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the proportion of a dozen among a million to the limit of 250.
    monkeypatch.setattr(bigquery_load, "MAX_REFUSED_IN_A_ROW", 12)
    staging = Staging(warehouse, label_type="INT64")
    file = write_file(warehouse, scattered(5, good_between=15), STAMP)
    result = staging.load(file)
    assert (result.row_count, len(result.refused)) == (75, 5)
    assert len(staging.loads()) - 75 / 15 > 12


def test_the_number_of_loads_is_bounded_also_where_some_are_taken(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bigquery_load.MAX_LOAD_JOBS < 1_500
    monkeypatch.setattr(bigquery_load, "MAX_LOAD_JOBS", 12)
    staging = Staging(warehouse, label_type="INT64")
    file = write_file(warehouse, scattered(10, good_between=3), STAMP)
    with pytest.raises(JobError, match=r"refused \d+ rows .* 12 loads were not enough.*word"):
        staging.load(file)
    assert len(staging.loads()) == 12


def test_a_damaged_file_fails_the_job_by_its_name(warehouse: Warehouse) -> None:
    staging = Staging(warehouse)
    path = f"{warehouse.bucket}/damaged.parquet"
    warehouse.storage.put("damaged.parquet", b"PAR1 and no more", bucket=warehouse.dataset)
    with pytest.raises(JobError, match=r"damaged\.parquet.*cannot be read"):
        staging.load(path)


def test_a_permission_that_is_lost_fails_the_job_with_what_to_grant(warehouse: Warehouse) -> None:
    staging = Staging(warehouse)
    file = write_file(warehouse, labelled("a"), STAMP)
    warehouse.plant_fault(
        r'POST .*/jobs .*"load"', status=403, reason="accessDenied", message="Access Denied: Table"
    )
    with pytest.raises(JobError, match=r"grant roles/bigquery\.dataEditor"):
        staging.load(file)


def test_rows_of_any_schema_can_be_loaded(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    gone = gone_table(table, FIRST)
    jobs = run_jobs(table, FIRST)
    create_staging(jobs, gone, [SchemaField("uri", "STRING")])
    path = f"{warehouse.bucket}/gone.parquet"
    bigquery_load.write_row_file(path, pa.table({"uri": ["a", "b"]}))
    assert load_files(jobs, gone, FIRST, [path]) == LoadResult(2, ())


def test_staging_tables_are_named_by_the_run() -> None:
    table = TableName.parse("p1-x.d.embeddings")
    run_id = "20261120T063000Z-0123abcd"
    assert str(staging_table(table, run_id)) == (
        "p1-x.d.embeddings_staging_20261120T063000Z_0123abcd"
    )
    assert str(gone_table(table, run_id)) == "p1-x.d.embeddings_gone_20261120T063000Z_0123abcd"
