"""`run --incremental` night after night over a local folder, with a tiny model."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from incremental_folders import assert_every_image_once
from nights import (
    FolderOfImages,
    Nights,
    assert_holds,
    assert_same_rows,
    change_ten_add_ten_delete_ten,
    counts_of,
    dead_letters,
    no_model_can_be_loaded,
    put_many,
    tiny_png,
)
from sample_images import corrupt_images, encode, one_colour
from tiny_models import images_in_log, save_tiny_model

from pipeline.__main__ import main
from transforms.ledgers.incremental_runs import complete_runs, heads
from transforms.search.read_embeddings import read_embeddings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), image_height=8, image_width=8)


@pytest.fixture
def images(tmp_path):
    return FolderOfImages(tmp_path / "photos")


@pytest.fixture
def nights(images, model, tmp_path):
    return Nights((images.location,), model, folder=str(tmp_path / "out"))


def test_two_thousand_images_cost_only_what_is_new(images, nights, tmp_path, capsys):
    put_many(images, 2000)
    both = "output.formats=[tfrecord,parquet]"
    with no_model_can_be_loaded(), pytest.raises(AssertionError, match="a model was loaded"):
        nights.status("--set", both)
    assert counts_of(nights.run("--set", both)) == {"found": 2000, "embedded": 2000}

    with no_model_can_be_loaded():
        report = nights.run("--set", both)
    assert counts_of(report) == {"found": 2000, "skipped": 2000}
    assert report["status"] == "complete"
    assert report["mean_batch_fill"] is None

    change_ten_add_ten_delete_ten(images)
    report = nights.run("--set", both)
    assert counts_of(report) == {"found": 2000, "skipped": 1980, "embedded": 20, "gone": 10}
    assert "gone       10" in capsys.readouterr().out
    assert len(assert_every_image_once(nights.folder)) == 2010

    with no_model_can_be_loaded():
        report = nights.run("--prune", "--set", both)
    assert counts_of(report) == {"found": 2000, "skipped": 2000, "gone": 10, "pruned": 10}
    assert_every_image_once(nights.folder)

    scratch = Nights(
        nights.inputs, nights.model, folder=str(tmp_path / "scratch"), incremental=False
    )
    assert counts_of(scratch.run()) == {"found": 2000, "embedded": 2000}
    expected = read_embeddings(scratch.folder)
    assert_same_rows(read_embeddings(nights.folder), expected)
    for shard in Path(nights.folder).glob("runs/*/*.parquet"):
        if shard.name.startswith("embeddings-"):
            shard.unlink()
    assert_same_rows(read_embeddings(nights.folder), expected)
    assert len(heads(complete_runs(nights.folder))) == 1


def test_another_model_is_refused_and_with_the_flag_stands_beside_the_first(
    images, nights, tmp_path, capsys
):
    put_many(images, 6)
    first = nights.run()
    before = sorted(Path(nights.folder).rglob("*"))
    other_model = save_tiny_model(tmp_path / "other", image_height=8, image_width=8, seed=1)
    other = Nights(nights.inputs, other_model, folder=nights.folder)
    for refused in (other.arguments(), nights.arguments("--set", "preprocess.fit=pad")):
        capsys.readouterr()
        assert main(refused) == 2
        assert "--allow-other-models" in capsys.readouterr().err
    assert sorted(Path(nights.folder).rglob("*")) == before

    second = other.run("--allow-other-models")
    assert counts_of(second) == {"found": 6, "embedded": 6}
    with no_model_can_be_loaded():
        # Neither set is in the way of the other; each finds its own.
        assert counts_of(nights.run()) == {"found": 6, "skipped": 6}
        assert counts_of(other.run()) == {"found": 6, "skipped": 6}
    with pytest.raises(ValueError, match="model_fingerprint"):
        read_embeddings(nights.folder)
    contents = {f"{images.location}/{n:04d}.png": tiny_png(n) for n in range(6)}
    for each, made in ((nights, first), (other, second)):
        table = read_embeddings(nights.folder, model_fingerprint=made["model"]["fingerprint"])
        assert_holds(table, contents, each.model)


def test_columns_of_a_manifest_go_along_and_what_it_no_longer_names_is_not_gone(
    images, nights, tmp_path, capsys
):
    put_many(images, 4)
    manifest = tmp_path / "photos.csv"

    def name(*numbers):
        rows = [f"{images.location}/{n:04d}.png,dog {n},{n}.5" for n in numbers]
        manifest.write_text("\n".join(["uri,label,price", *rows]) + "\n")

    listed = Nights((f"@{manifest}",), nights.model, folder=nights.folder)
    carry = ("--set", "input.carry=[label,'price:float64']")
    name(0, 1, 2)
    assert counts_of(listed.run(*carry)) == {"found": 3, "embedded": 3}
    name(1, 2, 3)
    assert counts_of(listed.run(*carry)) == {"found": 3, "skipped": 2, "embedded": 1}
    table = read_embeddings(nights.folder)
    found = {
        Path(uri).stem: values
        for uri, *values in zip(
            table.uris, table.carried["label"], table.carried["price"], strict=True
        )
    }
    assert found == {f"{n:04d}": [f"dog {n}", n + 0.5] for n in range(4)}

    capsys.readouterr()
    assert listed.status("--set", "input.carry=[label]") == 2
    assert "the column price (float64)" in capsys.readouterr().err
    assert listed.status("--set", "input.carry=[breed]") == 2
    assert "breed" in capsys.readouterr().err


def test_the_life_of_single_images(images, tmp_path):
    """Twins, a touched file, and one that fails every night until it is mended."""
    log = tmp_path / "seen.log"
    model = save_tiny_model(tmp_path / "model", image_height=8, image_width=8, log=log)
    nights = Nights((images.location,), model, folder=str(tmp_path / "out"))
    # No padding, so that the network is given each image once.
    flags = ("--set", "model.batch_size=1", "--max-failure-ratio", "0.2")
    put_many(images, 6)
    grey = encode(one_colour((7, 8, 9), side=8), "PNG")
    in_log = (7 + 8 + 9) * 8 * 8
    twins = [f"twin{n}.png" for n in range(5)]
    for name in twins:
        images.put(name, grey)
    images.put("corrupt.png", corrupt_images()["truncated PNG"])

    report = nights.run(*flags)
    assert counts_of(report) == {"found": 12, "embedded": 11, "failed": 1}
    assert Counter(images_in_log(log))[in_log] == 1
    vectors = assert_every_image_once(nights.folder)
    assert len(vectors) == 11
    assert len({vectors[f"{images.location}/{name}"].tobytes() for name in twins}) == 1
    first_letters = dead_letters(nights.run_folders()[-1])
    assert [Path(letter["uri"]).name for letter in first_letters] == ["corrupt.png"]

    # It fails each night, is reported each night, and neither fails the run nor loads the model.
    with no_model_can_be_loaded():
        report = nights.run(*flags)
    assert counts_of(report) == {"found": 12, "skipped": 11, "failed": 1}
    assert dead_letters(nights.run_folders()[-1]) == first_letters
    assert report["failures_by_error"] == {"UndecodableImage": 1}

    images.put("corrupt.png", grey)
    images.put("0000.png", corrupt_images()["truncated PNG"])
    os.utime(images.folder / "0001.png")
    images.put("0002.png", tiny_png(99))
    shutil.move(images.folder / "0003.png", images.folder / "moved.png")
    log.unlink()
    report = nights.run(*flags)
    assert counts_of(report) == {"found": 12, "skipped": 7, "embedded": 4, "failed": 1, "gone": 1}
    assert Counter(images_in_log(log))[in_log] == 1
    after = assert_every_image_once(nights.folder)

    def names(some):
        return sorted(Path(uri).name for uri in some)

    assert names(after.keys() - vectors.keys()) == ["corrupt.png", "moved.png"]
    different = [uri for uri in vectors if not np.array_equal(vectors[uri], after[uri])]
    # What has broken since keeps the vector that it had; what was touched has the same again.
    assert names(different) == ["0002.png"]


def test_an_input_that_is_half_empty_prunes_nothing(images, nights, capsys):
    put_many(images, 6)
    nights.run()
    for number in range(4):
        images.delete(f"{number:04d}.png")
    assert nights.status("--prune") == 1
    assert "nothing was pruned" in capsys.readouterr().err
    assert len(assert_every_image_once(nights.folder)) == 6
