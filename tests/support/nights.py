"""The same command over the same images, night after night, while images come, change and go."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from bigquery_emulator import Warehouse
from PIL import Image

from pipeline.__main__ import main
from transforms.folders.output_contents import list_runs
from transforms.folders.output_names import join, run_folder, run_report_path
from transforms.formats.embedding_table import EmbeddingTable
from transforms.images.image_codec import decode_image
from transforms.models.model_description import describe_model
from transforms.networks.hub_model import HubImageModel
from transforms.records import Preprocessing
from transforms.search.read_embeddings import read_embeddings
from transforms.storage.output_storage import paths_starting_with, read_small_file

ROOT = Path(__file__).parents[2]
SIDE = 8
"""Of the tiny images in pixels, and of what their model expects."""

#: Columns that tell when and by whom a row was written, not what it says.
_OF_THE_RUN = ("run_id", "embedded_at")


def tiny_png(number: int) -> bytes:
    """An image of its own for each number, in about 250 bytes."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class FolderOfImages:
    """Images on disk."""

    folder: Path

    @property
    def location(self) -> str:
        return str(self.folder)

    def put(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not in place: a file that is written within the same tick of the clock, with the same
        # size, would be the same generation.
        path = self.folder / name
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_bytes(content)
        if path.stat().st_mtime_ns == before:
            os.utime(path, ns=(before + 1, before + 1))

    def delete(self, name: str) -> None:
        (self.folder / name).unlink()


@dataclass(frozen=True)
class BucketOfImages:
    """Images in the bucket of a test."""

    warehouse: Warehouse
    prefix: str = "photos"

    @property
    def location(self) -> str:
        return f"{self.warehouse.bucket}/{self.prefix}"

    def put(self, name: str, content: bytes) -> None:
        self.warehouse.storage.put(f"{self.prefix}/{name}", content, self._bucket)

    def delete(self, name: str) -> None:
        self.warehouse.storage.delete(f"{self.prefix}/{name}", self._bucket)

    @property
    def _bucket(self) -> str:
        return self.warehouse.bucket.removeprefix("gs://")


Images = FolderOfImages | BucketOfImages


def put_many(images: Images, count: int) -> None:
    """Images 0000.png, 0001.png and so on, all different."""
    for number in range(count):
        images.put(f"{number:04d}.png", tiny_png(number))


def change_ten_add_ten_delete_ten(images: Images) -> None:
    for number in range(10):
        images.put(f"{number:04d}.png", tiny_png(10_000 + number))
        images.put(f"added{number}.png", tiny_png(20_000 + number))
        images.delete(f"{100 + number:04d}.png")


@dataclass(frozen=True)
class Nights:
    """A command of which only the flags change."""

    inputs: tuple[str, ...]
    model: str
    folder: str | None = None
    table: str | None = None
    """PROJECT.DATASET.TABLE."""
    temp_location: str | None = None
    incremental: bool = True

    def to(self, folder: str | None = None, table: str | None = None) -> "Nights":
        """The same into other outputs."""
        return replace(self, folder=folder, table=table)

    def arguments(self, *flags: Any) -> list[str]:
        parts = ["run", "--model", self.model]
        for location in self.inputs:
            parts += ["--input", location]
        if self.folder is not None:
            parts += ["--output", self.folder]
        if self.table is not None:
            parts += ["--output", f"bq://{self.table}"]
        if self.temp_location is not None:
            parts.append(f"--temp_location={self.temp_location}")
        if self.incremental:
            parts.append("--incremental")
        return [*parts, *map(str, flags)]

    def status(self, *flags: Any) -> int:
        """Run the command in this process; return its exit status."""
        return main(self.arguments(*flags))

    def run(self, *flags: Any) -> dict[str, Any]:
        """Run the command in this process, to its good end; return its run.json."""
        before = set(self.run_folders())
        status = self.status(*flags)
        assert status == 0, f"the command ended with {status}"
        new = [folder for folder in self.run_folders() if folder not in before]
        [folder] = new if self.incremental or self.folder is None else [self.folder]
        return report_of(str(folder))

    def start(self, *flags: Any) -> "subprocess.Popen[bytes]":
        """Start the command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *self.arguments(*flags)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run_folders(self) -> list[str]:
        """The folders of all runs so far, complete or not, in order."""
        if self.folder is not None:
            return [run_folder(self.folder, run_id) for run_id in list_runs(self.folder)]
        start = join(str(self.temp_location), "embed-images", "")
        found = paths_starting_with(start)
        return sorted({start + path.removeprefix(start).split("/")[0] for path in found})


@contextlib.contextmanager
def no_model_can_be_loaded() -> Iterator[None]:
    """Whatever loads a model in this process fails: TensorFlow itself refuses."""
    import tensorflow as tf

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    with mock.patch.object(tf.saved_model, "load", refuse):
        yield


def report_of(folder: str) -> dict[str, Any]:
    """The run.json of a run, whose numbers must add up."""
    report: dict[str, Any] = json.loads(read_small_file(run_report_path(folder)))
    if "counts" in report:
        counts = report["counts"]
        parts = counts["skipped"] + counts["embedded"] + counts["failed"]
        assert counts["found"] == parts, counts
    return report


def counts_of(report: Mapping[str, Any]) -> dict[str, int]:
    """The counts that are not 0."""
    return {name: count for name, count in report["counts"].items() if count}


def dead_letters(folder: str) -> list[dict[str, Any]]:
    """The dead letters of a run, in order of their URIs, without their time."""
    files = paths_starting_with(f"{folder}/dead_letters/")
    letters = [json.loads(line) for path in files for line in read_small_file(path).splitlines()]
    assert all(letter.pop("failed_at") for letter in letters)
    return sorted(letters, key=lambda letter: letter["uri"])


def assert_holds(table: EmbeddingTable, contents: Mapping[str, bytes], model: str) -> None:
    """Check that an output has one row for each of these images, with the model's vector of it.

    Args:
        table: as it was read.
        contents: the bytes of each URI.
        model: a tiny one.
    """
    assert sorted(table.uris) == sorted(contents)
    network = HubImageModel.load(describe_model(model), height=SIDE, width=SIDE)
    contract = Preprocessing(height=SIDE, width=SIDE)
    pixels = [decode_image(contents[uri], contract).pixels for uri in table.uris]
    np.testing.assert_allclose(table.vectors, network.embed(np.stack(pixels)), rtol=1e-5, atol=1e-5)
    assert table.sha256 == [hashlib.sha256(contents[uri]).hexdigest() for uri in table.uris]


def assert_same_rows(table: EmbeddingTable, expected: EmbeddingTable) -> None:
    """Check that two outputs say the same of the same images, in whatever order."""
    assert sorted(table.uris) == sorted(expected.uris)
    order = [np.argsort(each.uris) for each in (table, expected)]
    # A network gives one image nearly the same in batches of other sizes.
    np.testing.assert_allclose(
        table.vectors[order[0]], expected.vectors[order[1]], rtol=1e-5, atol=1e-5
    )
    for name in ("heights", "widths"):
        found, wanted = getattr(table, name)[order[0]], getattr(expected, name)[order[1]]
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    columns = [("sha256", table.sha256, expected.sha256)]
    columns += [("generation", table.generations, expected.generations)]
    columns += [("format", table.formats, expected.formats)]
    assert table.carried.keys() == expected.carried.keys()
    columns += [(name, table.carried[name], expected.carried[name]) for name in table.carried]
    for name, found, wanted in columns:
        in_order = [[each[place] for place in order[n]] for n, each in enumerate((found, wanted))]
        assert in_order[0] == in_order[1], name
    assert table.provenance == expected.provenance


def rows_of(warehouse: Warehouse, table: str) -> list[dict[str, Any]]:
    """All rows of a table of the test, in order of their keys."""
    order = "uri, model_fingerprint, preprocess_fingerprint, precision"
    return warehouse.query(f"SELECT * FROM `{table}` ORDER BY {order}")


def assert_same_table(rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    """Check that two tables say the same of the same images, whichever runs wrote them."""
    assert [row["uri"] for row in rows] == [row["uri"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(
            row["embedding"], other["embedding"], rtol=1e-5, atol=1e-5, err_msg=row["uri"]
        )
        of_the_image = [
            {key: value for key, value in each.items() if key not in (*_OF_THE_RUN, "embedding")}
            for each in (row, other)
        ]
        assert of_the_image[0] == of_the_image[1]


def assert_each_once(rows: Sequence[dict[str, Any]]) -> None:
    """Check that no URI has two rows of one model, preprocessing and precision."""
    keys = ("uri", "model_fingerprint", "preprocess_fingerprint", "precision")
    counted = Counter(tuple(row[key] for key in keys) for row in rows)
    twice = [key for key, count in counted.items() if count > 1]
    assert not twice, f"{len(twice)} rows are there more than once, {twice[:3]}"


def assert_folder_and_table_agree(folder: str, rows: Sequence[dict[str, Any]]) -> None:
    """Check that the folder and the table hold the same images with the same vectors."""
    found = read_embeddings(folder)
    vectors = dict(zip(found.uris, found.vectors, strict=True))
    assert sorted(vectors) == [row["uri"] for row in rows]
    contents = dict(zip(found.uris, found.sha256, strict=True))
    assert contents == {row["uri"]: row["sha256"] for row in rows}
    for row in rows:
        np.testing.assert_allclose(row["embedding"], vectors[row["uri"]], rtol=1e-5, atol=1e-5)
