"""`search` in a table, on the emulator: it has no VECTOR_SEARCH, so the exact query runs."""

import json
import subprocess
import sys

import pytest
from bigquery_emulator import bigquery_emulator
from sample_images import jpeg_bytes
from searchable import embed_images, report_of
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.bigquery.schema import table_schema
from transforms.formats.embedding_rows import embedding_rows
from transforms.records import CarriedColumn

COLUMNS = (CarriedColumn("label"), CarriedColumn("distance", "float64"))
FALLBACK = "there is no VECTOR_SEARCH here; comparing every row by COSINE_DISTANCE"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(64, 48, seed=number))
    return sorted(folder.iterdir())


@pytest.fixture
def warehouse():
    with bigquery_emulator() as warehouse:
        yield warehouse


def put(warehouse, name, embedded, *, number=1, **changes):
    """Write the rows and the report of a run into the table; return its address."""
    from google.cloud import bigquery

    client = warehouse.client()
    runs = f"{warehouse.table(name)}_runs"
    stamp = embedded.stamp
    schema = table_schema(stamp.layout, stamp.columns)
    client.create_table(bigquery.Table(warehouse.table(name), schema=schema), exists_ok=True)
    fields = [bigquery.SchemaField(each, "STRING") for each in ("run_id", "report")]
    client.create_table(bigquery.Table(runs, schema=fields), exists_ok=True)
    rows = embedding_rows(embedded.embeddings, stamp, vectors="float64").to_pylist()
    for row in rows:
        row["embedded_at"] = row["embedded_at"].isoformat()
    assert not rows or client.insert_rows_json(warehouse.table(name), rows) == []
    report = json.dumps(report_of(embedded, "", **changes))
    assert client.insert_rows_json(runs, [{"run_id": f"{number}", "report": report}]) == []
    return f"bq://{warehouse.table(name)}"


def search(capsys, *arguments):
    """Run the command; return its exit status, its output, and what it said."""
    status = main(["search", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_neighbours_are_those_of_a_plain_loop(warehouse, paths, model, tmp_path, capsys):
    carried = [(f"label {number}", number / 2) for number in range(len(paths))]
    embedded = embed_images(paths, model, columns=COLUMNS, carried=carried)
    table = put(warehouse, "photos", embedded)
    expected = embedded.cosines("3.jpg")
    page = tmp_path / "page.html"
    status, output, said = search(
        capsys, paths[3], "--in", table, "--count=4", "--json", "--html", page
    )
    assert status == 0
    assert FALLBACK in said
    answer = json.loads(output)
    assert answer["exact"] is True
    assert [each["uri"] for each in answer["neighbours"]] == list(expected)[:4]
    for each in answer["neighbours"]:
        assert each["cosine"] == pytest.approx(expected[each["uri"]], abs=1e-5)
        number = int(each["uri"][-5])
        assert each["carried"] == {"label": f"label {number}", "distance": number / 2}
        assert (each["format"], each["height"], each["width"]) == ("JPEG", 48, 64)
    assert page.read_text().count("data:image/jpeg;base64,") == 5


def test_only_rows_of_the_newest_run_or_of_the_given_model_are_compared(
    warehouse, paths, model, tmp_path, capsys
):
    other = save_tiny_model(tmp_path / "other", seed=1, embedding_width=5)
    put(warehouse, "photos", embed_images(paths, model), number=1)
    table = put(warehouse, "photos", embed_images(paths[:2], other), number=2)
    status, output, _ = search(capsys, paths[0], "--in", table, "--json")
    assert status == 0
    newest = json.loads(output)
    assert newest["model"]["handle"] == other
    assert len(newest["neighbours"]) == 2
    status, output, _ = search(capsys, paths[0], "--in", table, "--json", "--model", model)
    assert status == 0
    given = json.loads(output)
    assert given["model"]["handle"] == model
    assert len(given["neighbours"]) == len(paths)


def test_another_model_is_refused(warehouse, paths, model, tmp_path, capsys):
    table = put(warehouse, "photos", embed_images(paths[:2], model))
    other = save_tiny_model(tmp_path / "other", seed=1)
    status, output, said = search(capsys, paths[0], "--in", table, "--model", other)
    assert (status, output) == (2, "")
    assert "cannot be compared" in said


def test_a_run_that_failed_does_not_count(warehouse, paths, model, capsys):
    embedded = embed_images(paths[:2], model)
    table = put(warehouse, "photos", embedded, status="failed")
    status, _, said = search(capsys, paths[0], "--in", table)
    assert status == 2, said
    assert "no run has completed" in said


def test_a_set_without_rows_says_which_ones_there_are(warehouse, paths, model, tmp_path, capsys):
    other = save_tiny_model(tmp_path / "other", seed=1)
    embedded = embed_images(paths[:2], model)
    put(warehouse, "photos", embedded, number=1)
    nothing = embed_images(paths[:1], other)
    nothing.embeddings.clear()
    table = put(warehouse, "photos", nothing, number=2)
    status, _, said = search(capsys, paths[0], "--in", table)
    assert status == 2, said
    assert f"it holds 2 rows of {model} with model_fingerprint" in said


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("bq://photos", "is no table; write bq://PROJECT.DATASET.TABLE"),
        ("bq://test-project.no_such_dataset.photos", "create the dataset"),
        ("bq://test-project.{dataset}.photos", "there is no table test-project."),
    ],
)
def test_a_table_that_is_not_there_is_refused(warehouse, paths, capsys, location, message):
    location = location.format(dataset=warehouse.dataset)
    status, output, said = search(capsys, paths[0], "--in", location)
    assert (status, output) == (2, "")
    assert message in said


def test_a_table_without_its_runs_is_refused(warehouse, paths, model, capsys):
    table = put(warehouse, "photos", embed_images(paths[:2], model))
    warehouse.query("DROP TABLE photos_runs")
    status, _, said = search(capsys, paths[0], "--in", table)
    assert status == 2, said
    assert "there is no table" in said
    assert "photos_runs" in said


def test_without_the_client_the_command_says_what_to_install(paths):
    script = (
        "import sys; sys.modules['google.cloud.bigquery'] = None; "
        "from pipeline.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["search", paths[0], "--in", "bq://project-1.photos.embeddings"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "pip install 'embed-images[gcp]'" in ended.stderr
