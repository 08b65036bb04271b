import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_emulator import storage_emulator, upload

from transforms.errors import InvalidUri, RequestError, UnreadableInput
from transforms.records import CarriedColumn, ImageRef, Origin
from transforms.sources.manifest import (
    BadRow,
    carried_values,
    check_manifest,
    entry_uri,
    is_manifest,
    manifest_parts,
    read_manifest,
    row_uri,
)

LABEL = CarriedColumn("label")
PRICE = CarriedColumn("price", "float64")
COLUMNS = (LABEL, PRICE)


def read(location, columns=COLUMNS, uri_column="uri"):
    return [
        entry
        for part in manifest_parts(f"@{location}")
        for entry in read_manifest(part, uri_column, columns)
    ]


def ref(uri, *carried):
    return ImageRef(uri, origin=Origin(carried=carried))


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "ndjson", "CSV", "parquet", "csv.gz"])
def test_what_the_name_of_a_manifest_tells(suffix):
    assert is_manifest(f"@gs://bucket/photos.{suffix}")
    assert is_manifest(f"@photos/*.{suffix}")
    assert not is_manifest(f"photos.{suffix}")
    assert not is_manifest(f"@photos.{suffix}.txt")


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz"])
def test_a_csv_may_have_quotes_line_ends_within_them_and_a_byte_order_mark(tmp_path, name):
    path = write(
        tmp_path / name,
        '\ufeffprice,uri,label,other\r\n1.5,"gs://b/a, b.jpg","two\nlines ""quoted""",x\r\n'
        "\r\n,/abs/c.jpg,,\r\n",
    )
    assert read(path) == [
        ref("gs://b/a, b.jpg", 'two\nlines "quoted"', 1.5),
        ref("/abs/c.jpg", "", None),
    ]


@pytest.mark.parametrize("name", ["m.jsonl", "m.ndjson", "m.jsonl.gz"])
def test_json_lines_may_lack_a_column_and_nest_values(tmp_path, name):
    path = write(
        tmp_path / name,
        '\ufeff{"uri": "https://h/a.jpg", "label": {"en": "cat"}, "price": 2}\n\n'
        '{"uri": "gs://b/c.jpg"}',
    )
    assert read(path) == [
        ref("https://h/a.jpg", '{"en": "cat"}', 2.0),
        ref("gs://b/c.jpg", None, None),
    ]


def test_parquet_is_read_by_row_groups_and_only_its_wanted_columns(tmp_path):
    table = pa.table(
        {
            "label": pa.array(["a", None, "c"]).dictionary_encode(),
            "uri": pa.array([b"gs://b/0", b"gs://b/1", b"gs://b/2"]),
            "price": pa.array([1, None, 3], pa.int8()),
            "other": [["x"], [], None],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=2)
    parts = list(manifest_parts(f"@{tmp_path}/m.parquet"))
    assert [(part.row_group, part.first_row) for part in parts] == [(0, 1), (1, 3)]
    assert read(tmp_path / "m.parquet") == [
        ref("gs://b/0", "a", 1.0),
        ref("gs://b/1", None, None),
        ref("gs://b/2", "c", 3.0),
    ]


def test_rows_of_parquet_keep_their_numbers_and_strange_times_cost_one_row(tmp_path):
    times = pa.array([0, 2**45, 0], pa.timestamp("s"))
    table = pa.table({"uri": ["gs://b/0", "gs://b/1", None], "label": times})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1)
    first, strange, nameless = read(tmp_path / "m.parquet", (LABEL,))
    assert first == ref("gs://b/0", "1970-01-01T00:00:00")
    assert (strange.uri, type(strange.error).__name__) == ("gs://b/1", "InvalidColumn")
    assert nameless.uri == f"{tmp_path}/m.parquet:row 3"


def test_relative_paths_are_taken_from_the_folder_of_the_manifest(tmp_path):
    path = write(tmp_path / "m.csv", "image\na.jpg\n../b.jpg\n~/c.jpg\nfile:///d%20e.jpg\n")
    uris = [entry.uri for entry in read(path, (), "image")]
    assert uris[:2] == [f"{tmp_path}/a.jpg", f"{tmp_path.parent}/b.jpg"]
    assert uris[2].endswith("/c.jpg")
    assert not uris[2].startswith(("~", str(tmp_path)))
    assert uris[3] == "/d e.jpg"


def test_of_a_pattern_every_file_is_read(tmp_path):
    for name in ("b.csv", "a.csv", "sub/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, f"uri\ngs://b/{name}\n")
    uris = [entry.uri for entry in read(f"{tmp_path}/**/*.csv", ())]
    assert uris == ["gs://b/a.csv", "gs://b/b.csv", "gs://b/sub/c.csv"]


def test_a_bad_row_of_a_csv_costs_no_other(tmp_path):
    path = write(
        tmp_path / "m.csv",
        b"uri,label,price\n"
        b",no uri,1\n"
        b"gs://b/a.jpg,cat,cheap\n"
        b"gs://b/few.jpg,cat\n"
        b"gs://b/many.jpg,cat,1,2\n"
        b'"gs://b/quote".jpg,cat,1\n'
        b"gs://b/caf\xe9.jpg,cat,1\n"
        b"gs://b/b.jpg,caf\xe9,1\n"
        b"gs://b/\x00.jpg,cat,1\n"
        b"gs://b/good.jpg,cat,1\n",
    )
    *bad, good = read(path)
    assert good == ref("gs://b/good.jpg", "cat", 1.0)
    assert [(entry.uri, type(entry.error).__name__) for entry in bad] == [
        (f"{path}:row 1", "InvalidUri"),
        ("gs://b/a.jpg", "InvalidColumn"),
        (f"{path}:row 3", "InvalidRow"),
        (f"{path}:row 4", "InvalidRow"),
        (f"{path}:row 5", "InvalidRow"),
        (f"{path}:row 6", "InvalidUri"),
        ("gs://b/b.jpg", "InvalidColumn"),
        (f"{path}:row 8", "InvalidUri"),
    ]
    assert "price holds 'cheap', which is no float64" in str(bad[1].error)
    assert str(bad[2].error).startswith(f"{path}:row 3: line 4 ends a row of 2 fields, but the he")
    assert all(str(entry.error).encode() for entry in bad)


def test_a_bad_line_of_json_costs_no_other(tmp_path):
    lines = [
        "{",
        "[1]",
        "null",
        '{"uri": 5}',
        '{"uri": " "}',
        '{"label": "no uri"}',
        '{"uri": "gs://b/a", "label": "\\ud800"}',
        '{"uri": "/\\ud800"}',
        "[" * 100_000,
        '{"uri": "gs://b/good"}',
    ]
    *bad, good = read(write(tmp_path / "m.jsonl", "\n".join(lines)))
    assert good == ref("gs://b/good", None, None)
    assert [type(entry.error).__name__ for entry in bad] == [
        *("InvalidRow", "InvalidRow", "InvalidRow", "InvalidUri", "InvalidUri", "InvalidUri"),
        *("InvalidColumn", "InvalidUri", "InvalidRow"),
    ]
    assert bad[5].uri == f"{tmp_path}/m.jsonl:row 6"


def test_a_quote_that_is_never_closed_fails_the_job_and_hides_no_rows(tmp_path):
    path = write(tmp_path / "m.csv", 'uri,label\ngs://b/a,x\ngs://b/b,"open\ngs://b/c,y\n')
    with pytest.raises(UnreadableInput, match=r"m.csv is no CSV from its line 3 on: .*not closed"):
        read(path, (LABEL,))


def test_a_long_field_is_read(tmp_path):
    path = write(tmp_path / "m.csv", f"uri,label\ngs://b/a,{'x' * 10**6}\n")
    assert len(read(path, (LABEL,))[0].origin.carried[0]) == 10**6


@pytest.mark.parametrize("name", ["m.csv.gz", "m.jsonl.gz", "m.parquet"])
def test_a_damaged_file_fails_the_job_by_its_name(tmp_path, name):
    lines = "".join(f'{{"uri": "gs://b/{number * 7919}"}}\n' for number in range(1000))
    content = {"m.csv.gz": "uri\n" + lines, "m.jsonl.gz": lines, "m.parquet": "PAR1"}[name]
    path = write(tmp_path / name, content)
    if name.endswith(".gz"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableInput, match=name):
        read(path, ())


def test_a_dead_letter_of_a_bad_row_stays_bad(tmp_path):
    letter = {
        "uri": "gs://b/a",
        "stage": "ListImages",
        "error": "InvalidColumn",
        "message": "m.csv:row 7: the column price holds 'cheap'",
        "failed_at": "2026-01-01T00:00:00+00:00",
        "carried": {},
    }
    path = write(tmp_path / "m.jsonl", json.dumps(letter))
    (entry,) = read(path)
    assert isinstance(entry, BadRow)
    assert "m.csv:row 7" in str(entry.error)


def test_a_carried_column_may_be_called_like_a_field_of_a_dead_letter(tmp_path):
    letter = {
        "uri": "gs://b/a",
        "stage": "ReadImages",
        "error": "ImageNotFound",
        "message": "gone",
        "failed_at": "2026-01-01T00:00:00+00:00",
        "carried": {"stage": "larva"},
    }
    path = write(tmp_path / "m.jsonl", json.dumps(letter))
    assert read(path, (CarriedColumn("stage"),)) == [ref("gs://b/a", "larva")]
    check_manifest(f"@{path}", "uri", (CarriedColumn("stage"),))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.csv", "url,label,price\n", "has no column 'uri'; did you mean 'url'? it has 'url', 'l"),
        ("m.csv", "uri,Label,price\n", "has no column 'label'; did you mean 'Label'?"),
        ("m.csv", "uri;label;price\n", "it has 'uri;label;price'"),
        ("m.csv", "uri,label,label,price\n", "has the column 'label' more than once"),
        ("m.csv", "uri,label,price\n", "has no rows"),
        ("m.csv", "", "is empty"),
        ("m.jsonl", "", "has no rows"),
        ("m.jsonl", '{"uri": "a"}\n{"price": 1}', "has no column 'label'"),
        ("m.parquet", "uri", "is no Parquet file"),
        ("m.csv.gz", None, "there is no file or folder"),
        ("*.csv", None, "nothing matched"),
    ],
)
def test_a_manifest_is_checked_before_the_job_starts(tmp_path, name, content, complaint):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(RequestError) as refusal:
        check_manifest(f"@{tmp_path}/{name}", "uri", COLUMNS)
    assert complaint in str(refusal.value)
    assert f"--input @{tmp_path}/{name}" in str(refusal.value)


def test_a_parquet_manifest_without_a_column_is_refused(tmp_path):
    pq.write_table(pa.table({"uri": ["a"], "prize": [1]}), tmp_path / "m.parquet")
    with pytest.raises(RequestError, match="has no column 'price'; did you mean 'prize'"):
        check_manifest(f"@{tmp_path}/m.parquet", "uri", (PRICE,))
    check_manifest(f"@{tmp_path}/m.parquet")


def test_empty_dead_letters_beside_others_are_no_reason_to_refuse(tmp_path):
    write(tmp_path / "a.jsonl", "")
    write(tmp_path / "b.jsonl", '{"uri": "a"}\n')
    check_manifest(f"@{tmp_path}/*.jsonl")


def test_a_manifest_behind_a_url_is_refused():
    with pytest.raises(RequestError, match="download it"):
        check_manifest("@https://photos.invalid/m.csv")


def test_manifests_in_a_bucket_are_read(tmp_path):
    write(tmp_path / "m.csv.gz", "uri,label,price\na.jpg,cat,1\n")
    pq.write_table(
        pa.table({"uri": ["/b.jpg"], "label": ["x"], "price": [2]}), tmp_path / "m.parquet"
    )
    with storage_emulator() as bucket:
        upload(tmp_path, f"{bucket}/lists")
        for name in ("m.csv.gz", "m.parquet"):
            check_manifest(f"@{bucket}/lists/{name}", "uri", COLUMNS)
        assert read(f"{bucket}/lists/*.csv.gz") == [ref(f"{bucket}/lists/a.jpg", "cat", 1.0)]
        assert read(f"{bucket}/lists/m.parquet") == [ref("/b.jpg", "x", 2.0)]
        with pytest.raises(RequestError, match="no_such"):
            check_manifest(f"@{bucket}/lists/no_such.csv")


def test_a_row_of_a_query_may_not_name_a_relative_path():
    assert row_uri({"uri": "/a.jpg"}, "uri", None) == "/a.jpg"
    with pytest.raises(InvalidUri, match="relative"):
        row_uri({"uri": "a.jpg"}, "uri", None)


def test_the_values_of_a_row_come_in_the_order_of_the_columns():
    assert carried_values({"price": "1", "label": 2}, COLUMNS) == ("2", 1.0)


def test_an_entry_may_be_any_local_name():
    assert entry_uri("caf\udce9.jpg", "/photos") == "file:///photos/caf%E9.jpg"
