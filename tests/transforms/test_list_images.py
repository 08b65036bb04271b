import gzip
import os
import pickle
import re
import tracemalloc
import zlib

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import GlobalWindows
from storage_emulator import storage_emulator, storage_server, upload

from transforms import list_images
from transforms.list_images import ListImages, list_input
from transforms.records import CarriedColumn, ImageRef, Origin
from transforms.step_parts.pack_in_buckets import unpack
from transforms.storage.file_listing import ListedFile


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def listed(inputs, *expected):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages(tuple(map(str, inputs)))
        uris = listing.refs | beam.Map(lambda ref: ref.uri)
        assert_that(uris, equal_to([str(uri) for uri in expected]))


def test_what_two_inputs_both_name_is_listed_once(folder):
    (folder / "list.txt").write_text(f"{folder}/a.jpg\n{folder}/a.jpg\n")
    listed(
        [folder, folder / "*.jpg", f"@{folder}/list.txt"],
        folder / "a.jpg",
        folder / "b.jpg",
        folder / "sub/c.png",
    )


def test_of_two_references_to_one_uri_the_one_that_knows_the_size_is_kept(folder):
    (folder / "list.txt").write_text(f"{folder}/a.jpg\n")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages((f"@{folder}/list.txt", f"{folder}/a.jpg"))
        assert_that(listing.refs | beam.Map(lambda ref: ref.size_bytes), equal_to([5]))


def test_a_list_may_have_blank_lines_a_byte_order_mark_and_windows_line_ends(folder):
    (folder / "list.txt").write_bytes(
        b"\xef\xbb\xbfa.jpg\r\n\r\n  sub/c.png  \ngs://bucket/x y.jpg\n#5.jpg"
    )
    # Relative entries are taken from the folder of the list, wherever a worker runs.
    assert [file.ref.uri for file in list_input(f"@{folder}/list.txt")] == [
        f"{folder}/a.jpg",
        f"{folder}/sub/c.png",
        "gs://bucket/x y.jpg",
        f"{folder}/#5.jpg",
    ]


def test_an_entry_of_a_list_that_does_not_exist_is_listed_all_the_same(folder):
    (folder / "list.txt").write_text("/no/such/file.jpg\n")
    assert list(list_input(f"@{folder}/list.txt")) == [
        ListedFile(ImageRef("/no/such/file.jpg"), is_image=True)
    ]


def test_urls_are_listed_as_they_are_without_asking_for_them(folder):
    urls = ["https://photos.invalid/a*.jpg?x=[1]", "HTTP://photos.invalid/b/"]
    (folder / "list.txt").write_text("\n".join(urls))
    assert [file.ref.uri for file in list_input(f"@{folder}/list.txt")] == urls
    for url in urls:
        assert list(list_input(url)) == [ListedFile(ImageRef(url), is_image=True)]


def test_a_list_behind_a_url_is_refused():
    with pytest.raises(OSError, match="download it"):
        list(list_input("@https://photos.invalid/list.txt"))


def test_a_missing_list_is_an_error(folder):
    with pytest.raises(FileNotFoundError):
        list(list_input(f"@{folder}/no_list.txt"))


def test_what_is_found_is_counted_for_the_progress_of_remote_runs(folder):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((str(folder),))
    metrics = pipeline.run().metrics().query(MetricsFilter().with_namespace("ListImages"))
    assert {metric.key.metric.name: metric.committed for metric in metrics["counters"]} == {
        "images-found": 3,
        "files-ignored": 1,
    }


def test_files_that_are_no_images_are_named_and_not_passed_over(folder):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages((str(folder),))
        assert_that(listing.ignored, equal_to([str(folder / "notes.txt")]))


def test_what_a_run_wrote_among_its_inputs_is_no_image(folder):
    for name in ("schema.pbtxt", "run.json", "embeddings-00000-of-00002.tfrecord"):
        (folder / "out" / name).parent.mkdir(exist_ok=True)
        (folder / "out" / name).touch()
    (folder / "out" / "mine.jpg").touch()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages((f"{folder}/**",), output_folder=f"{folder}/out")
        names = listing.refs | beam.Map(lambda ref: ref.uri.removeprefix(f"{folder}/"))
        assert_that(names, equal_to(["a.jpg", "b.jpg", "sub/c.png", "notes.txt", "out/mine.jpg"]))


def test_a_list_may_be_compressed(folder):
    (folder / "list.txt.gz").write_bytes(gzip.compress(b"a.jpg\nb.jpg\n"))
    assert len(list(list_input(f"@{folder}/list.txt.gz"))) == 2


def test_a_reference_that_the_runner_loses_fails_the_job(folder, monkeypatch):
    """Beam's engine with several threads has done so; here one of two to a URI is lost."""

    def lossy(packed):
        return {uri: (uri, ref) for uri, ref in unpack(packed)}.values()

    (folder / "list.txt").write_text("a.jpg\n")
    monkeypatch.setattr(list_images, "unpack", lossy)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((str(folder), f"@{folder}/list.txt"))
    with pytest.raises(Exception, match="listed 4 references, but the runner handed on 3"):
        pipeline.run()


def test_references_are_spread_over_the_workers(folder):
    (folder / "list.txt").write_text("".join(f"/nowhere/{n}.jpg\n" for n in range(1_000)))

    class SizesOfBundles(beam.DoFn):
        def start_bundle(self):
            self.refs = 0

        def process(self, ref):
            self.refs += 1

        def finish_bundle(self):
            yield GlobalWindows.windowed_value(self.refs)

    def check(sizes):
        assert sum(sizes) == 1_000
        assert max(sizes) < 700

    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(runner="FnApiRunner", options=options) as pipeline:
        listing = pipeline | ListImages((f"@{folder}/list.txt",))
        assert_that(listing.refs | beam.ParDo(SizesOfBundles()), check)


@pytest.mark.parametrize("pattern", ["", "/*.jpg", "/list.txt"])
def test_an_input_that_names_no_image_any_more_fails_the_job(folder, pattern):
    """Between the check of the launcher and the listing of the worker it was emptied."""
    (folder / "empty").mkdir()
    (folder / "empty" / "list.txt").write_text("\n")
    at = "@" if pattern == "/list.txt" else ""
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((f"{folder}/sub", f"{at}{folder}/empty{pattern}"))
    with pytest.raises(Exception, match=re.escape(f"{folder}/empty{pattern} names no")):
        pipeline.run()


def test_an_input_that_is_gone_fails_the_job(folder):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((f"{folder}/sub", f"{folder}/gone"))
    with pytest.raises(Exception, match="no file or folder"):
        pipeline.run()


def test_a_folder_that_cannot_be_listed_to_its_end_fails_the_job(folder, monkeypatch):
    real_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((str(folder),))
    with pytest.raises(Exception, match="Permission denied"):
        pipeline.run()


@pytest.mark.parametrize(
    ("status", "location", "message"),
    [
        (403, "photos", "this process may not list"),
        (200, "emptied", "there is no object or prefix"),
        (200, "emptied/*.jpg", "names no image any more"),
    ],
)
def test_a_bucket_that_cannot_be_listed_or_is_empty_fails_the_job(status, location, message):
    with storage_server() as server:
        server.put("photos/a.jpg", b"12345")
        if status != 200:
            server.refuse("GET /storage/v1/b/", status)
        pipeline = beam.Pipeline(runner="FnApiRunner")
        _ = pipeline | ListImages((f"{server.address}/{location}",))
        with pytest.raises(Exception, match=message):
            pipeline.run()


def test_an_object_beside_a_prefix_of_the_same_name_does_not_hide_what_lies_below():
    """Else one stray object would make all images below count as gone."""
    with storage_server() as server:
        for name in ("p", "p/a.jpg", "p/b/c.png", "p/notes.txt", "p2.jpg"):
            server.put(name, b"12345")
        found = {
            file.ref.uri.removeprefix(f"{server.address}/"): file.is_image
            for file in list_input(f"{server.address}/p")
        }
        assert found == {"p": True, "p/a.jpg": True, "p/b/c.png": True, "p/notes.txt": False}
        below = [file.ref.uri for file in list_input(f"{server.address}/p/") if file.is_image]
        assert below == [f"{server.address}/p/a.jpg", f"{server.address}/p/b/c.png"]


def test_no_inputs_are_refused_when_the_graph_is_built():
    with pytest.raises(ValueError, match="inputs is empty"):
        _ = beam.Pipeline(runner="FnApiRunner") | ListImages(())


LABEL = CarriedColumn("label")


def test_manifests_are_listed_with_what_they_carry_and_what_is_known_of_the_files(folder):
    (folder / "m.csv").write_text("uri,label\na.jpg,cat\nb.jpg,dog\nhttps://h.invalid/c,owl\n")
    table = pa.table({"uri": ["gs://b/0", "gs://b/1"], "label": ["x", None]})
    pq.write_table(table, folder / "m.parquet", row_group_size=1)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages(
            (f"@{folder}/m.csv", f"@{folder}/*.parquet"), columns=(LABEL,)
        )
        known = listing.refs | beam.Map(lambda ref: (ref.uri, ref.size_bytes, ref.origin.carried))
        assert_that(
            known,
            equal_to(
                [
                    (f"{folder}/a.jpg", 5, ("cat",)),
                    (f"{folder}/b.jpg", 5, ("dog",)),
                    ("https://h.invalid/c", None, ("owl",)),
                    ("gs://b/0", None, ("x",)),
                    ("gs://b/1", None, (None,)),
                ]
            ),
        )
        assert_that(listing.failed, equal_to([]), label="NoFailures")
        assert_that(listing.complete, equal_to([True]), label="Complete")


def test_a_bad_row_is_found_and_failed(folder):
    (folder / "m.csv").write_text("uri,n\na.jpg,1\nb.jpg,many\n,3\n")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    listing = pipeline | ListImages((f"@{folder}/m.csv",), columns=(CarriedColumn("n", "int64"),))
    failed = listing.failed | beam.Map(lambda failure: (failure.uri, failure.stage, failure.error))
    assert_that(
        failed,
        equal_to(
            [
                (f"{folder}/b.jpg", "ListImages", "InvalidColumn"),
                (f"{folder}/m.csv:row 3", "ListImages", "InvalidUri"),
            ]
        ),
    )
    metrics = pipeline.run().metrics().query(MetricsFilter().with_namespace("ListImages"))
    # Each step has a counter of its own.
    counted = [(metric.key.metric.name, metric.committed) for metric in metrics["counters"]]
    assert sum(count for name, count in counted if name == "images-found") == 3
    assert ("failed-InvalidColumn", 1) in counted


def test_carried_values_win_whatever_the_order_of_the_inputs(folder):
    (folder / "first.csv").write_text("uri,label\na.jpg,\n")
    (folder / "list.txt").write_text("a.jpg\n")
    (folder / "second.jsonl").write_text('{"uri": "a.jpg", "label": "cat"}\n{"uri": "a.jpg"}\n')
    (folder / "third.csv").write_text("uri,label\na.jpg,dog\n")
    inputs = ["a.jpg", "@first.csv", "@list.txt", "@second.jsonl", "@third.csv"]
    for order in (inputs, inputs[::-1]):
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            paths = tuple(
                f"@{folder}/{name[1:]}" if name[0] == "@" else f"{folder}/{name}" for name in order
            )
            listing = pipeline | ListImages(paths, columns=(LABEL,))
            found = listing.refs | beam.Map(lambda ref: (ref.origin.carried, ref.size_bytes))
            # Null is the last choice; an empty string of a CSV is a value.
            assert_that(found, equal_to([(("",), 5)]))


@pytest.mark.parametrize("look_up", [False, True])
def test_references_from_elsewhere_are_listed_with_the_others(folder, look_up):
    def from_elsewhere(uri, label):
        return ImageRef(str(uri), origin=Origin(carried=(label,)))

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        query = pipeline | beam.Create(
            [from_elsewhere(folder / "a.jpg", "cat"), from_elsewhere("https://h.invalid/x", "dog")]
        )
        listing = (query,) | ListImages(
            (f"{folder}/*.jpg",), columns=(LABEL,), look_up_entries=look_up
        )
        known = listing.refs | beam.Map(lambda ref: (ref.uri, ref.size_bytes, ref.origin.carried))
        assert_that(
            known,
            equal_to(
                [
                    (f"{folder}/a.jpg", 5, ("cat",)),
                    (f"{folder}/b.jpg", 5, ()),
                    ("https://h.invalid/x", None, ("dog",)),
                ]
            ),
        )


def test_references_from_elsewhere_may_be_all(folder):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        query = pipeline | beam.Create([ImageRef(f"{folder}/a.jpg")])
        listing = (query,) | ListImages(())
        assert_that(listing.refs | beam.Map(lambda ref: ref.size_bytes), equal_to([5]))


def test_objects_that_a_list_names_are_looked_up_where_it_is_asked_for(folder):
    names = [f"{number}.jpg" for number in range(40)]
    with storage_emulator() as bucket:
        for name in names:
            upload(folder / "a.jpg", f"{bucket}/p/{name}")
        (folder / "list.txt").write_text("\n".join([*names, "gone.jpg"]))
        upload(folder / "list.txt", f"{bucket}/p/list.txt")
        for look_up in (False, True):
            with beam.Pipeline(runner="FnApiRunner") as pipeline:
                listing = pipeline | ListImages((f"@{bucket}/p/list.txt",), look_up_entries=look_up)
                known = listing.refs | beam.Map(
                    lambda ref: (ref.uri, ref.size_bytes, ref.origin.generation is not None)
                )
                facts = (5, True) if look_up else (None, False)
                expected = [(f"{bucket}/p/{name}", *facts) for name in names]
                assert_that(known, equal_to([*expected, (f"{bucket}/p/gone.jpg", None, False)]))


def test_an_output_of_ours_in_a_manifest_is_no_image(folder):
    (folder / "m.csv").write_text("uri\nout/run.json\na.jpg\n")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages((f"@{folder}/m.csv",), output_folder=f"{folder}/out")
        assert_that(listing.refs | beam.Map(lambda ref: ref.uri), equal_to([f"{folder}/a.jpg"]))
        assert_that(listing.complete, equal_to([True]), label="Complete")


def test_a_manifest_without_the_column_fails_the_job(folder):
    (folder / "m.csv").write_text("uri\na.jpg\n")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ListImages((f"@{folder}/m.csv",), columns=(LABEL,))
    with pytest.raises(Exception, match="has no column 'label'"):
        pipeline.run()


@pytest.mark.parametrize(
    ("line", "uri"),
    [
        (b"gs://b/caf\xe9.jpg", "gs://b/caf\\xe9.jpg"),
        (b"https://h.invalid/\xff", "https://h.invalid/\\xff"),
        (b"file:///\xff", "file:///\\xff"),
    ],
)
def test_an_entry_of_a_list_that_is_no_utf8_is_found_and_failed(folder, line, uri):
    (folder / "list.txt").write_bytes(b"\n" + line + b"\r\na.jpg\n")
    pipeline = beam.Pipeline(runner="FnApiRunner")
    listing = pipeline | ListImages((f"@{folder}/list.txt",))
    assert_that(listing.refs | beam.Map(lambda ref: ref.uri), equal_to([f"{folder}/a.jpg"]))
    failed = listing.failed | beam.Map(
        lambda each: (each.uri, each.stage, each.error, each.message.split(": ")[0])
    )
    expected = (uri, "ListImages", "InvalidUri", f"{folder}/list.txt:line 2")
    assert_that(failed, equal_to([expected]), label="Failed")
    assert_that(listing.complete, equal_to([True]), label="Complete")
    metrics = pipeline.run().metrics().query(MetricsFilter().with_name("images-found"))
    assert sum(metric.committed for metric in metrics["counters"]) == 2


def test_a_list_with_nothing_but_entries_that_cannot_be_names_something(folder):
    (folder / "list.txt").write_bytes(b"gs://b/caf\xe9.jpg\n")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages((f"@{folder}/list.txt",))
        assert_that(listing.refs, equal_to([]))
        assert_that(listing.failed | beam.Map(lambda each: each.error), equal_to(["InvalidUri"]))


def test_a_local_entry_of_a_list_may_be_no_utf8(folder):
    (folder / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    [file] = list_input(f"@{folder}/list.txt")
    assert file.ref.uri == f"file://{folder}/caf%E9.jpg"


def test_a_bad_row_is_a_failure_of_its_own_also_where_others_name_its_image(folder):
    """What it should have carried is lost, and nobody would hear of it otherwise."""
    (folder / "m.csv").write_text("uri,n\na.jpg,many\na.jpg,more\n")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        listing = pipeline | ListImages(
            (f"{folder}/a.jpg", f"@{folder}/m.csv"), columns=(CarriedColumn("n", "int64"),)
        )
        assert_that(listing.refs | beam.Map(lambda ref: ref.uri), equal_to([f"{folder}/a.jpg"]))
        rows = listing.failed | beam.Map(lambda each: (each.uri, each.message.split(": ")[0]))
        expected = [(f"{folder}/a.jpg", f"{folder}/m.csv:row {number}") for number in (1, 2)]
        assert_that(rows, equal_to(expected), label="Rows")


def test_very_many_references_to_one_uri_take_no_more_memory_than_a_few():
    refs = [("a", ImageRef("a", origin=Origin(carried=(str(n),)))) for n in range(1_000)]

    def memory(repetitions):
        packed = (zlib.compress(pickle.dumps(refs)) for _ in range(repetitions))
        tracemalloc.start()
        *_, ref = list_images._one_of_each(0, packed)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert ref.origin.carried == ("0",)
        return peak

    assert memory(30) < 2 * memory(2)


def test_that_references_carry_other_values_is_counted_once_for_each_uri(folder):
    (folder / "m.csv").write_text(
        "uri,label\n" + "a.jpg,cat\na.jpg,dog\na.jpg,owl\na.jpg,cat\n" + "b.jpg,cat\n" * 3
    )
    pipeline = beam.Pipeline(runner="FnApiRunner")
    listing = pipeline | ListImages((f"{folder}/*.jpg", f"@{folder}/m.csv"), columns=(LABEL,))
    known = listing.refs | beam.Map(lambda ref: (ref.size_bytes, ref.origin.carried))
    assert_that(known, equal_to([(5, ("cat",)), (5, ("cat",))]))
    metrics = pipeline.run().metrics().query(MetricsFilter().with_name("images-with-other-values"))
    assert sum(metric.committed for metric in metrics["counters"]) == 1
