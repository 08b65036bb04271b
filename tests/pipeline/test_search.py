"""`search` in folders: which images, by which model, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from http_server import running_server
from sample_images import jpeg_bytes
from searchable import embed_images, write_output, write_run
from storage_emulator import storage_emulator, upload
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config import PreprocessConfig
from pipeline.search_report import printable
from transforms.records import CarriedColumn
from transforms.storage.output_storage import open_file

COUNT = 7
COLUMNS = (CarriedColumn("label"), CarriedColumn("price", "float64"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(COUNT):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(64, 48, seed=number))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def embedded(paths, model):
    return embed_images(paths, model)


@pytest.fixture
def out(tmp_path, embedded):
    return write_output(tmp_path / "out", embedded)


def search(capsys, *arguments):
    """Run the command; return its exit status, its output, and what it said."""
    status = main(["search", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def found(capsys, *arguments):
    """Run the command; return what it found, as JSON."""
    status, output, said = search(capsys, *arguments, "--json")
    assert status == 0, said
    return json.loads(output)


@pytest.mark.parametrize("file_format", ["tfrecord", "parquet"])
def test_the_neighbours_are_those_of_a_plain_loop(embedded, paths, tmp_path, capsys, file_format):
    out = write_output(tmp_path / "out", embedded, file_format=file_format)
    expected = embedded.cosines("3.jpg")
    answer = found(capsys, paths[3], "--in", out, "--count", 5)
    assert [each["uri"] for each in answer["neighbours"]] == list(expected)[:5]
    for rank, each in enumerate(answer["neighbours"], start=1):
        assert each["rank"] == rank
        assert each["cosine"] == pytest.approx(expected[each["uri"]], abs=1e-5)
    assert answer["exact"] is True
    assert answer["model"]["fingerprint"] == embedded.stamp.provenance.model_fingerprint
    first = answer["neighbours"][0]
    assert (first["format"], first["height"], first["width"]) == ("JPEG", 48, 64)


def test_an_image_among_the_rows_comes_first(out, paths, capsys):
    status, output, _ = search(capsys, paths[2], "--in", out, "--count=2")
    assert status == 0
    heading, _, names, first, second = output.splitlines()
    assert heading.startswith(f"Nearest to {paths[2]} by cosine, according to ")
    assert names.split() == ["rank", "cosine", "uri"]
    assert first.split() == ["1", "1.000", str(paths[2])]
    assert second.split()[0] == "2"


def test_an_image_that_is_not_among_the_rows_is_searched_for(out, tmp_path, capsys):
    image = tmp_path / "new.jpg"
    image.write_bytes(jpeg_bytes(90, 90, seed=99))
    answer = found(capsys, image, "--in", out)
    assert len(answer["neighbours"]) == COUNT
    assert answer["neighbours"][0]["cosine"] < 0.9999


def test_carried_columns_are_shown(paths, model, tmp_path, capsys):
    values = [("cat", 1.5), (None, None)]
    embedded = embed_images(paths[:2], model, columns=COLUMNS, carried=values)
    out = write_output(tmp_path / "out", embedded)
    status, output, _ = search(capsys, paths[0], "--in", out)
    assert status == 0
    lines = output.splitlines()
    assert lines[2].split() == ["rank", "cosine", "uri", "label", "price"]
    assert lines[3].split() == ["1", "1.000", str(paths[0]), "cat", "1.5"]
    assert len(lines[4].split()) == 3
    carried = [each["carried"] for each in found(capsys, paths[0], "--in", out)["neighbours"]]
    assert carried == [{"label": "cat", "price": 1.5}, {"label": None, "price": None}]


def test_the_recorded_preprocessing_is_used(paths, model, tmp_path, capsys):
    preprocess = PreprocessConfig(size=(40, 24), fit="pad", value_range=(-1.0, 1.0))
    any_size = save_tiny_model(tmp_path / "any", image_height=None, image_width=None)
    embedded = embed_images(paths, any_size, preprocess=preprocess)
    out = write_output(tmp_path / "out", embedded)
    answer = found(capsys, paths[4], "--in", out)
    assert answer["neighbours"][0]["uri"] == str(paths[4])
    assert answer["neighbours"][0]["cosine"] == pytest.approx(1.0, abs=1e-6)


def test_a_copy_of_the_model_serves_where_the_recorded_one_is_gone(paths, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    out = write_output(tmp_path / "out", embed_images(paths, model))
    copy = tmp_path / "copy"
    shutil.move(model, copy)
    status, output, said = search(capsys, paths[0], "--in", out)
    assert (status, output) == (2, "")
    assert "name a copy of it with --model" in said
    status, output, _ = search(capsys, paths[0], "--in", out, "--model", copy)
    assert status == 0
    assert "1.000" in output


def test_a_model_that_has_changed_is_refused(paths, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    out = write_output(tmp_path / "out", embed_images(paths, model))
    shutil.rmtree(model)
    save_tiny_model(tmp_path / "model", seed=1)
    status, output, said = search(capsys, paths[0], "--in", out)
    assert (status, output) == (2, "")
    assert "so they cannot be compared; name a copy of the model that made them" in said


def test_another_model_is_refused(out, paths, tmp_path, capsys):
    other = save_tiny_model(tmp_path / "other", seed=1)
    status, output, said = search(capsys, paths[0], "--in", out, "--model", other)
    assert (status, output) == (2, "")
    assert "cannot be compared" in said
    assert "leave --model out" in said


def test_in_a_folder_of_two_models_the_newest_run_or_the_given_model_decides(
    paths, model, tmp_path, capsys
):
    other = save_tiny_model(tmp_path / "other", seed=1, embedding_width=5)
    older = embed_images(paths, model, run_id="20261119T000000Z-00000001")
    newer = embed_images(paths[:4], other, run_id="20261120T000000Z-00000002")
    write_run(tmp_path / "out", older)
    write_run(tmp_path / "out", newer, older)
    by_newest = found(capsys, paths[0], "--in", tmp_path / "out")
    assert by_newest["model"]["handle"] == other
    assert len(by_newest["neighbours"]) == 4
    by_older = found(capsys, paths[0], "--in", tmp_path / "out", "--model", model)
    assert by_older["model"]["handle"] == model
    assert len(by_older["neighbours"]) == COUNT
    one_run = tmp_path / "out/runs/20261119T000000Z-00000001"
    assert len(found(capsys, paths[0], "--in", one_run)["neighbours"]) == COUNT


def test_an_image_on_the_web_is_found_as_the_run_fetched_it(paths, embedded, tmp_path, capsys):
    with running_server() as server:
        url = server.serve("/cat.jpg", paths[5].read_bytes())
        out = write_output(tmp_path / "strict", embedded)
        status, _, said = search(capsys, url, "--in", out)
        assert status == 2
        assert "ImageForbidden" in said
        config = {**embedded.facts["config"]}
        config["input"] = {**config["input"], "allow_private_addresses": True}
        out = write_output(tmp_path / "out", embedded, config=config)
        assert found(capsys, url, "--in", out)["neighbours"][0]["uri"] == str(paths[5])


def test_a_bucket_is_searched_and_takes_the_page(paths, model, tmp_path, capsys):
    with storage_emulator() as bucket:
        embedded = embed_images(paths, model)
        upload(write_output(tmp_path / "out", embedded), f"{bucket}/out")
        image = upload(paths[1], f"{bucket}/cat.jpg")
        page = f"{bucket}/page.html"
        answer = found(capsys, image, "--in", f"{bucket}/out", "--html", page)
        assert answer["neighbours"][0]["uri"] == str(paths[1])
        with open_file(page) as file:
            assert file.read().count(b"data:image/jpeg;base64,") == 1 + COUNT
        status, _, said = search(capsys, image, "--in", f"{bucket}/elsewhere")
        assert status == 2
        assert "no run has completed there" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "ImageNotFound: there is no file at"),
        (b"", "UndecodableImage: the file is empty"),
        (jpeg_bytes()[:200], "UndecodableImage"),
    ],
)
def test_a_bad_image_is_refused_before_the_model_is_loaded(out, tmp_path, capsys, content, message):
    image = tmp_path / "bad.jpg"
    if content is not None:
        image.write_bytes(content)
    status, output, said = search(capsys, image, "--in", out)
    assert (status, output) == (2, "")
    assert message in said
    assert "loading the model" not in said


def test_a_folder_without_a_complete_run_is_refused(out, embedded, paths, tmp_path, capsys):
    (out / "_SUCCESS").unlink()
    write_run(tmp_path / "runs", embedded)
    next((tmp_path / "runs/runs").glob("*/_SUCCESS")).unlink()
    for folder in (out, tmp_path / "runs", tmp_path, tmp_path / "nowhere"):
        status, _, said = search(capsys, paths[0], "--in", folder)
        assert status == 2
        assert "no run has completed there" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "failed"}, "whose status is 'failed'"),
        ({"model": None}, "does not say how its vectors were made"),
        ({"outputs": {"embedding_width": 0}}, "wrote no embeddings"),
        ({"outputs": {"embedding_width": 3}}, "its vectors have 8 values, and the model gives 3"),
        ({"outputs": {"embedding_width": 9}}, "gives 8 values, and the vectors have 9"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(embedded, paths, tmp_path, capsys, changes, message):
    out = write_output(tmp_path / "out", embedded, **changes)
    status, output, said = search(capsys, paths[0], "--in", out)
    assert (status, output) == (2, "")
    assert message in said


def test_preprocessing_of_another_version_is_refused(embedded, paths, tmp_path, capsys):
    preprocessing = {**embedded.facts["preprocessing"], "fingerprint": "0" * 16}
    out = write_output(tmp_path / "out", embedded, preprocessing=preprocessing)
    status, _, said = search(capsys, paths[0], "--in", out)
    assert status == 2
    assert "names the preprocessing 0000000000000000" in said


def test_vectors_of_another_model_than_the_report_says_are_refused(
    embedded, paths, tmp_path, capsys
):
    other = save_tiny_model(tmp_path / "other", seed=1)
    facts = embed_images(paths[:1], other).facts
    out = write_output(tmp_path / "out", embedded, model=facts["model"], config=facts["config"])
    status, _, said = search(capsys, paths[0], "--in", out)
    assert status == 2
    assert "holds vectors whose model_fingerprint is" in said


def test_a_folder_without_rows_is_refused(embedded, paths, tmp_path, capsys):
    nothing = type(embedded)([], embedded.stamp, embedded.facts)
    out = write_output(tmp_path / "out", nothing, file_format="parquet")
    status, _, said = search(capsys, paths[0], "--in", out)
    assert status == 2
    assert "it holds no embeddings" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jpg"], "--in is missing"),
        (["--in", "out"], "IMAGE is missing"),
        (["a.jpg", "--in="], "--in is empty"),
        (["a.jpg", "--in", "out", "--count=0"], "from 1 to 1000"),
        (["a.jpg", "--in", "out", "--count=ten"], "--count is 'ten'"),
        (["a.jpg", "--in", "out", "--cuont=3"], "did you mean --count?"),
        (["a.jpg", "b.jpg", "--in", "out"], "unexpected argument 'b.jpg'"),
        (["a.jpg", "--in", "out", "--html", "/nowhere/a.html"], "there is no folder /nowhere"),
        (["a.jpg", "--in", "out", "--html", "/tmp"], "it is a folder"),
        (["a.jpg", "--in", "out", "--html", "https://example.org/a"], "cannot be written to the"),
    ],
)
def test_a_wrong_request_ends_with_status_2(arguments, message, capsys):
    status, output, said = search(capsys, *arguments)
    assert (status, output) == (2, "")
    assert message in said


def test_a_switch_before_the_image_takes_no_value(out, paths, capsys):
    status, output, _ = search(capsys, "--json", paths[0], "--in", out)
    assert status == 0
    assert json.loads(output)["neighbours"]


def test_names_cannot_control_the_terminal(model, tmp_path, capsys):
    hostile = tmp_path / "a\x1b[2J\n\u202egpj.jpg"
    hostile.write_bytes(jpeg_bytes())
    out = write_output(tmp_path / "out", embed_images([hostile], model))
    status, output, _ = search(capsys, hostile, "--in", out)
    assert status == 0
    assert all(line.isprintable() for line in output.splitlines())
    assert "a\\x1b[2J\\n\\u202egpj.jpg" in output
    assert found(capsys, hostile, "--in", out)["neighbours"][0]["uri"] == str(hostile)


def test_printable_leaves_other_scripts_alone():
    assert printable("/фото/写真 größe.jpg") == "/фото/写真 größe.jpg"


def test_the_help_says_what_a_cosine_of_1_is(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["search", "--help"])
    assert ended.value.code == 0
    assert "a cosine of 1" in capsys.readouterr().out


def test_what_run_writes_is_found(paths, model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--input", paths[0].parent, "--output", out, "--model", model]
    assert main(["run", *map(str, arguments)]) == 0
    capsys.readouterr()
    answer = found(capsys, Path(paths[6]), "--in", out, "--count=1")
    assert [each["uri"] for each in answer["neighbours"]] == [str(paths[6])]
    assert answer["neighbours"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)
