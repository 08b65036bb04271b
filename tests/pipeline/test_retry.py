"""`retry`: what failed is tried again, and nothing else."""

import json
import shutil

import pytest
from bigquery_emulator import bigquery_emulator
from image_examples_files import write_examples
from sample_images import jpeg_bytes
from storage_emulator import storage_server
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.ledgers.incremental_runs import complete_runs
from transforms.search.read_embeddings import read_embeddings

LENIENT = "--max-failure-ratio=1"
CARRIED = "--set=input.carry=[label, price:float64]"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def first_run(model, tmp_path_factory):
    """A folder of photographs, and the output of a run over them."""
    folder = tmp_path_factory.mktemp("first")
    break_again(folder)
    inputs = ("--input", f"@{folder}/rows.csv", CARRIED)
    output = folder / "out"
    assert command("run", *inputs, "--output", output, "--model", model, LENIENT) == 0
    return folder, output


@pytest.fixture
def photographs(first_run):
    """A manifest of six: two are good, two corrupt, one is missing, and one names nothing."""
    break_again(first_run[0])
    return first_run[0]


@pytest.fixture
def failed_run(first_run, photographs, tmp_path):
    """The output of a run over them, which is complete: a copy."""
    return shutil.copytree(first_run[1], tmp_path / "out")


def break_again(folder):
    for path in folder.glob("*.*"):
        path.unlink()
    rows = ["uri,label,price"]
    for number in range(4):
        content = jpeg_bytes(seed=number) if number < 2 else b"no image"
        (folder / f"{number}.jpg").write_bytes(content)
        rows.append(f"{number}.jpg,label {number},{number}.5")
    rows += ["missing.jpg,label 4,4.5", ",label 5,5.5"]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")


def command(name, *arguments):
    return main([name, *map(str, arguments)])


def mend(photographs):
    for number, name in enumerate(("0", "1", "2", "3", "missing")):
        (photographs / f"{name}.jpg").write_bytes(jpeg_bytes(seed=number))


def names(output):
    return sorted(uri.rpartition("/")[2] for uri in read_embeddings(str(output)).uris)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def report_of(output):
    return json.loads((output / "run.json").read_text())


def test_all_that_failed_and_nothing_else_is_embedded(failed_run, photographs, tmp_path, capsys):
    mend(photographs)
    again = tmp_path / "again"
    assert command("retry", "--from", failed_run / "dead_letters", "--output", again) == 0
    table = read_embeddings(str(again))
    rows = dict(zip(table.uris, zip(*table.carried.values(), strict=True), strict=True))
    assert {uri.rpartition("/")[2]: row for uri, row in rows.items()} == {
        "2.jpg": ("label 2", 2.5),
        "3.jpg": ("label 3", 3.5),
        "missing.jpg": ("label 4", 4.5),
    }
    first, second = report_of(failed_run), report_of(again)
    assert second["model"] == first["model"]
    assert second["preprocessing"] == first["preprocessing"]
    said = capsys.readouterr().err
    assert "2 UndecodableImage, 1 ImageNotFound" in said
    assert "left out: 1 InvalidUri, rows of a manifest that name no image" in said
    assert "rows.csv:row 6" in said


def test_one_class_of_errors_can_be_retried(failed_run, photographs, tmp_path):
    mend(photographs)
    again = tmp_path / "again"
    chosen = ("--error", "ImageNotFound")
    assert command("retry", "--from", failed_run, *chosen, "--output", again) == 0
    assert names(again) == ["missing.jpg"]
    (manifest,) = (failed_run / "dead_letters").glob("retry-*.jsonl")
    assert len(manifest.read_text().splitlines()) == 1
    # It lies beside the dead letters and is none.
    assert command("retry", "--from", failed_run, *chosen, "--output", tmp_path / "third") == 0
    assert names(tmp_path / "third") == ["missing.jpg"]


def test_what_fails_again_is_a_dead_letter_again_with_all_that_it_carried(
    failed_run, photographs, tmp_path
):
    (photographs / "2.jpg").write_bytes(jpeg_bytes(seed=2))
    again, third = tmp_path / "again", tmp_path / "third"
    # Two of three fail, far above the limit of a run.
    assert command("retry", "--from", failed_run, "--output", again) == 0
    assert report_of(again)["failures_by_error"] == {"ImageNotFound": 1, "UndecodableImage": 1}
    mend(photographs)
    assert command("retry", "--from", again, "--output", third) == 0
    assert names(third) == ["3.jpg", "missing.jpg"]
    assert sorted(read_embeddings(str(third)).carried["price"]) == [3.5, 4.5]


def test_a_limit_of_failures_can_be_given(failed_run, tmp_path, capsys):
    flags = ("--output", tmp_path / "again", "--max-failure-ratio", "0.5")
    assert command("retry", "--from", failed_run, *flags) == 1
    assert "3 of 3 images failed" in capsys.readouterr().err


def test_a_plain_output_is_never_replaced(first_run, failed_run, tmp_path, capsys):
    folders = (first_run[1], failed_run)
    before = [contents(folder) for folder in folders]
    alias = tmp_path / "alias"
    alias.symlink_to(failed_run)
    for flags in ([], ["--overwrite"], ["--output", alias, "--overwrite"]):
        assert command("retry", "--from", failed_run, *flags) == 2
        assert "name another folder with --output" in capsys.readouterr().err
    assert [contents(folder) for folder in folders] == before


def test_overwrite_of_the_run_is_not_that_of_its_retry(photographs, model, tmp_path, capsys):
    output, other = tmp_path / "out", tmp_path / "other"
    inputs = ("--input", f"{photographs}/2.jpg", "--model", model, LENIENT, "--overwrite")
    for folder in (output, other):
        assert command("run", *inputs, "--output", folder) == 0
    assert command("retry", "--from", output, "--output", other) == 2
    assert "already holds a complete output" in capsys.readouterr().err


def test_an_incremental_output_gets_a_run_more(photographs, model, tmp_path, capsys):
    output = tmp_path / "out"
    inputs = ("--input", f"{photographs}/*.jpg", "--input", f"@{photographs}/rows.csv", CARRIED)
    flags = ("--output", output, "--model", model, LENIENT, "--incremental", "--prune")
    assert command("run", *inputs, *flags) == 0
    mend(photographs)
    (photographs / "0.jpg").unlink()
    capsys.readouterr()
    # Also where the run or a file prunes: what failed does not tell what is gone.
    job = tmp_path / "job.yaml"
    job.write_text("output: {prune: true}\ninput: {patterns: [elsewhere]}\n")
    assert command("retry", "--from", output, "--config", job) == 0
    runs = complete_runs(str(output))
    (first, second) = sorted(runs)
    assert f"retrying what failed in {output}/runs/{first}" in capsys.readouterr().err
    assert list(runs[second]["parents"]) == [first]
    counts = runs[second]["counts"]
    assert (counts["found"], counts["embedded"], counts["failed"]) == (3, 3, 0)
    assert (counts["gone"], counts["pruned"]) == (0, 0)
    assert names(output) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "missing.jpg"]
    # The newest run has no dead letters; those of the one before are all done by now.
    assert command("retry", "--from", output) == 0
    assert len(complete_runs(str(output))) == 3
    assert report_of(output / "runs" / max(complete_runs(str(output))))["counts"]["skipped"] == 3


def test_letters_without_carried_columns_are_retried_beside_those_with_them(
    photographs, model, tmp_path
):
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "a.jpg").write_bytes(b"no image")
    inputs = ("--input", loose, "--input", f"@{photographs}/rows.csv", CARRIED)
    output, again = tmp_path / "out", tmp_path / "again"
    assert command("run", *inputs, "--output", output, "--model", model, LENIENT) == 0
    mend(photographs)
    (loose / "a.jpg").write_bytes(jpeg_bytes(seed=9))
    assert command("retry", "--from", output, "--output", again) == 0
    table = read_embeddings(str(again))
    labels = dict(zip(table.uris, table.carried["label"], strict=True))
    assert labels[str(loose / "a.jpg")] is None
    assert labels[str(photographs / "2.jpg")] == "label 2"


def test_the_classes_are_listed_with_their_counts_and_an_example(failed_run, capsys):
    capsys.readouterr()
    assert command("retry", "--from", failed_run, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"what failed in {failed_run}"
    (undecodable,) = [line for line in lines if line.startswith("UndecodableImage ")]
    assert undecodable.split()[1] == "2"
    assert ".jpg: " in undecodable
    at = lines.index("not to be retried:")
    assert lines[at + 1].startswith("InvalidUri")
    assert not list((failed_run / "dead_letters").glob("retry-*"))


def test_the_configuration_can_be_looked_at(failed_run, model, tmp_path, capsys):
    capsys.readouterr()
    flags = ("--output", tmp_path / "again", "--set", "model.batch_size=4", "--print-config")
    assert command("retry", "--from", failed_run, *flags) == 0
    text = capsys.readouterr().out
    assert f"handle: {model}" in text
    assert "batch_size: 4" in text
    assert "uri_column: uri" in text
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ([], "bfloat16"),
        (["--config", "{folder}/auto.yaml"], "bfloat16"),
        (["--config", "{folder}/float32.yaml"], "float32"),
        (["--set", "model.precision=auto"], "auto"),
        (["--set", "model.precision=float16"], "float16"),
    ],
)
def test_a_precision_that_the_run_settled_on_is_not_settled_anew(
    failed_run, tmp_path, capsys, flags, precision
):
    report = report_of(failed_run)
    report["config"]["model"]["precision"] = "auto"
    report["model"]["precision"] = "bfloat16"
    (failed_run / "run.json").write_text(json.dumps(report))
    for name in ("auto", "float32"):
        (tmp_path / f"{name}.yaml").write_text(f"model: {{precision: {name}}}\n")
    capsys.readouterr()

    flags = [flag.format(folder=tmp_path) for flag in flags]
    again = ("--output", tmp_path / "again", "--print-config", *flags)
    assert command("retry", "--from", failed_run, *again) == 0

    assert f"precision: {precision}\n" in capsys.readouterr().out


def test_nothing_to_retry_is_no_failure(photographs, model, tmp_path, failed_run, capsys):
    output = tmp_path / "good"
    assert (
        command("run", "--input", f"{photographs}/0.jpg", "--output", output, "--model", model) == 0
    )
    capsys.readouterr()
    assert command("retry", "--from", output) == 0
    assert capsys.readouterr().out == f"nothing to retry: nothing failed in {output}\n"
    assert command("retry", "--from", failed_run, "--error", "ImageForbidden") == 0
    out = capsys.readouterr().out
    assert out.startswith("nothing to retry of ImageForbidden")
    assert "2 UndecodableImage" in out
    assert command("retry", "--from", failed_run, "--error", "InvalidUri") == 0
    assert "1 InvalidUri (not to be retried)" in capsys.readouterr().out


def test_images_inside_tfrecords_are_left_out(model, tmp_path, capsys):
    records = write_examples(
        tmp_path / "images.tfrecord",
        [
            {"image/encoded": jpeg_bytes(), "image/filename": b"good.jpg"},
            {"image/encoded": b"no image", "image/filename": b"bad.jpg"},
            {"image/filename": b"none.jpg"},
        ],
    )
    output = tmp_path / "out"
    flags = ("--output", output, "--model", model, LENIENT)
    assert command("run", "--input", f"tfrecord:{records}", *flags) == 0
    assert command("retry", "--from", output, "--output", tmp_path / "again") == 0
    out, err = capsys.readouterr()
    assert "nothing to retry" in out
    assert "left out: 1 UndecodableImage, images inside TFRecords" in err
    assert "records of TFRecords" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--from is missing; see embed-images retry --help"),
        (["--from="], "--from is empty"),
        (["--from=x", "--eror=y"], "unknown flag --eror; did you mean --error?"),
        (["--from=x", "y"], "unexpected argument 'y'; name the folder of the dead letters"),
        (["--from=x", "--input=y"], "--input is not for retry; its images are the dead letters"),
        (["--from=x", "--set=input.carry=[a]"], "--set input.carry is not for retry"),
        (["--from=x", "--prune"], "--prune is not for retry; it looks at the images that failed"),
        (["--from=x", "--set=output.prune=true"], "--set output.prune is not for retry"),
        (["--from=bq://p1-abc.d.t"], "is that of its row in p1-abc.d.t_runs"),
        (["--from=nowhere"], "there are no dead letters; name the dead_letters folder of a run"),
        (
            ["--from={out}", "--error=UndecodeableImage"],
            "did you mean UndecodableImage? there are",
        ),
        (["--from={out}", "--error=x"], "no image fails with that; there are 2 UndecodableImage"),
        (["--from={out}", "--output=o", "--set=model.batch_size=0"], "model.batch_size: 0 is not"),
        (["--from={out}", "--output=o", "--no_such_flag=1"], "unknown flag --no_such_flag"),
    ],
)
def test_a_wrong_request_is_refused(flags, message, request, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "{out}" in "".join(flags):
        out = request.getfixturevalue("failed_run")
        flags = [flag.format(out=out) for flag in flags]
    assert command("retry", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_was_killed_is_refused(failed_run, capsys):
    (failed_run / "run.json").write_text('{"status": "running", "run_id": "x"}')
    assert command("retry", "--from", failed_run, "--output", "elsewhere") == 2
    assert "run the job again" in capsys.readouterr().err


def test_dead_letters_that_are_none_are_refused(failed_run, capsys):
    (path,) = (failed_run / "dead_letters").iterdir()
    path.write_text(path.read_text() + '{"uri": "a"}\n')
    assert command("retry", "--from", failed_run, "--output", "elsewhere") == 2
    assert f"line 5 of {path} is no dead letter" in capsys.readouterr().err


def test_an_output_that_was_moved_needs_a_name(photographs, model, tmp_path, capsys):
    output, moved = tmp_path / "out", tmp_path / "moved"
    flags = ("--output", output, "--model", model, LENIENT, "--incremental")
    assert command("run", "--input", f"{photographs}/*.jpg", *flags) == 0
    output.rename(moved)
    mend(photographs)
    assert command("retry", "--from", moved) == 2
    assert "say with --output where the retry is to write" in capsys.readouterr().err
    assert command("retry", "--from", moved, "--output", moved) == 0
    assert names(moved) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_a_bucket_is_retried_from(model):
    with storage_server() as server:
        for number in range(4):
            content = jpeg_bytes(seed=number) if number else b"no image"
            server.put(f"photos/{number}.jpg", content)
        server.put("photos/late.jpg", b"")
        output = f"{server.address}/out"
        flags = ("--output", output, "--model", model, LENIENT, "--incremental")
        assert command("run", "--input", f"{server.address}/photos", *flags) == 0
        server.put("photos/0.jpg", jpeg_bytes(seed=9))
        server.put("photos/late.jpg", jpeg_bytes(seed=10))
        assert command("retry", "--from", output, "--error", "UndecodableImage") == 0
        assert len(read_embeddings(output).uris) == 5


def test_a_table_gets_what_failed_and_nothing_twice(photographs, model):
    with bigquery_emulator() as warehouse:
        table = warehouse.table("photos")
        temporary = f"--temp_location={warehouse.bucket}/tmp"
        inputs = ("--input", f"@{photographs}/rows.csv", CARRIED, "--incremental")
        flags = ("--output", f"bq://{table}", "--model", model, LENIENT, temporary)
        assert command("run", *inputs, *flags) == 0
        (row,) = warehouse.query("SELECT run_id, embedded FROM photos_runs")
        assert row["embedded"] == 2
        mend(photographs)
        run_folder = f"{warehouse.bucket}/tmp/embed-images/{row['run_id']}"
        assert command("retry", "--from", run_folder) == 2
        assert command("retry", "--from", run_folder, temporary) == 0
        rows = warehouse.query("SELECT uri, label, run_id FROM photos ORDER BY uri")
        assert [(each["uri"].rpartition("/")[2], each["label"]) for each in rows] == [
            *((f"{number}.jpg", f"label {number}") for number in range(4)),
            ("missing.jpg", "label 4"),
        ]
        counts = warehouse.query("SELECT embedded, skipped, gone FROM photos_runs ORDER BY run_id")
        assert [tuple(each.values()) for each in counts] == [(2, 0, 0), (3, 0, 0)]
