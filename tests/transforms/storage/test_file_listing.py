import os

import pytest

from transforms.records import ImageRef
from transforms.storage import cloud_storage
from transforms.storage.cloud_storage import StoredObject
from transforms.storage.file_listing import (
    list_files,
    local_path,
    local_uri,
    pattern_matcher,
    stat_ref,
)


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.jpg",
        "b.JPEG",
        "notes.txt",
        "no_extension",
        ".hidden.jpg",
        "sub/c.png",
        "sub/deep/d.jpg",
        ".cache/e.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(root, location):
    return {
        os.path.relpath(file.ref.uri, root): file.is_image for file in list_files(str(location))
    }


def test_a_folder_stands_for_its_visible_files_and_only_images_count(tree):
    assert names(tree, tree) == {
        "a.jpg": True,
        "b.JPEG": True,
        "notes.txt": False,
        "no_extension": True,
        "sub/c.png": True,
        "sub/deep/d.jpg": True,
    }


def test_a_listing_knows_size_and_time(tree):
    (file,) = list_files(str(tree / "a.jpg"))
    assert file.ref.size_bytes == 5
    assert file.ref.updated == pytest.approx((tree / "a.jpg").stat().st_mtime)


def test_a_file_that_is_written_has_another_generation(tree):
    before, same = (next(list_files(str(tree / "a.jpg"))).ref.origin.generation for _ in range(2))
    assert before == same
    (tree / "a.jpg").write_bytes(b"other")
    os.utime(tree / "a.jpg", ns=(0, 1))
    assert next(list_files(str(tree / "a.jpg"))).ref.origin.generation == "1-5"


def test_of_an_entry_of_a_list_is_known_what_a_listing_would_tell(tree):
    (listed,) = list_files(str(tree / "a.jpg"))
    assert stat_ref(str(tree / "a.jpg")) == listed.ref


@pytest.mark.parametrize(
    "uri", ["/no/such/file.jpg", "/photos/a\0b.png", "https://x.invalid/a.jpg"]
)
def test_of_what_cannot_be_looked_at_only_the_uri_is_known(uri):
    assert stat_ref(uri) == ImageRef(uri)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", {"a.jpg", ".hidden.jpg"}),
        ("[ab].*", {"a.jpg", "b.JPEG"}),
        ("[!a].*", {"b.JPEG"}),
        ("?.jpg", {"a.jpg"}),
        ("*/*.png", {"sub/c.png"}),
        ("**/*.jpg", {"a.jpg", ".hidden.jpg", "sub/deep/d.jpg", ".cache/e.jpg"}),
        ("sub/**", {"sub/c.png", "sub/deep/d.jpg"}),
        ("notes.*", {"notes.txt"}),
        ("*.gif", set()),
    ],
)
def test_a_pattern_names_exactly_what_it_matches(tree, pattern, expected):
    found = names(tree, tree / pattern)
    assert set(found) == expected
    assert all(found.values())


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tree):
    (tree / "x[1]*.jpg").write_bytes(b"x")
    assert list(names(tree, tree / "x[1]*.jpg")) == ["x[1]*.jpg"]


def test_a_folder_whose_name_looks_like_a_pattern_is_taken_as_it_is(tree):
    (tree / "year [2024]").mkdir()
    (tree / "year [2024]" / "x.jpg").write_bytes(b"x")
    assert list(names(tree, tree / "year [2024]")) == ["year [2024]/x.jpg"]


def test_linked_folders_are_followed_once_and_loops_end(tree):
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "f.jpg").write_bytes(b"f")
    (tree / "sub" / "link").symlink_to(tree / "elsewhere")
    (tree / "sub" / "loop").symlink_to(tree)
    found = names(tree, tree / "sub")
    assert "sub/link/f.jpg" in found
    assert len({os.path.realpath(tree / name) for name in found}) == len(found)


def test_a_dangling_link_is_listed_so_that_it_becomes_a_dead_letter(tree):
    (tree / "gone.jpg").symlink_to(tree / "nowhere")
    assert names(tree, tree)["gone.jpg"]


def test_the_mark_of_a_finished_job_is_no_image(tree):
    (tree / "sub" / "_SUCCESS").touch()
    assert names(tree, tree)["sub/_SUCCESS"] is False


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_passed_over(tree, monkeypatch):
    real_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="deep"):
        list(list_files(str(tree)))


def test_a_pattern_that_is_none_is_an_error(tree):
    with pytest.raises(ValueError, match="is no pattern"):
        list(list_files(str(tree / "[z-a].jpg")))


def test_a_storage_that_nobody_knows_is_an_error():
    with pytest.raises(ValueError, match="foo://"):
        list(list_files("foo://x/y"))


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(list_files(str(tmp_path / "missing")))


def test_a_pattern_below_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        list(list_files(str(tmp_path / "missing" / "*.jpg")))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_listed_is_an_error(tree):
    (tree / "sub").chmod(0)
    try:
        with pytest.raises(PermissionError):
            list(list_files(str(tree)))
    finally:
        (tree / "sub").chmod(0o700)


def test_relative_and_file_uris_come_back_absolute(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert next(list_files("a.jpg")).ref.uri == str(tree / "a.jpg")
    assert next(list_files(f"file://{tree}/a.jpg")).ref.uri == str(tree / "a.jpg")


def test_a_name_that_is_no_utf8_has_a_uri_that_leads_back_to_it(tree):
    name = os.fsencode(tree) + b"/caf\xe9.jpg"
    try:
        with open(name, "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    uris = [file.ref.uri for file in list_files(str(tree))]
    (uri,) = [uri for uri in uris if "caf" in uri]
    assert uri.startswith("file:///")
    uri.encode()
    assert os.fsencode(local_path(uri)) == name
    assert local_uri(local_path(uri)) == uri


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("gs://b/**/*.jpg", "gs://b/x.jpg", True),
        ("gs://b/**/*.jpg", "gs://b/y/z/x.jpg", True),
        ("gs://b/*.jpg", "gs://b/y/x.jpg", False),
        ("/a/[!b].c", "/a/b.c", False),
        ("/a/[!b].c", "/a//.c", False),
        ("/a/[]b].c", "/a/].c", True),
        ("/a/[^b].c", "/a/^.c", True),
        ("/a/x[.c", "/a/x[.c", True),
        ("/a/b.c", "/a/bxc", False),
        ("/a/**", "/a/b\nc", True),
    ],
)
def test_pattern_matching(pattern, path, expected):
    assert pattern_matcher(pattern)(path) is expected


@pytest.mark.parametrize(
    ("md5", "crc32c", "checksum"),
    [
        # An object composed of parts has no MD5, and may be alike one that has.
        (None, "0a0b0c0d", "crc32c:0a0b0c0d"),
        ("0" * 32, "0a0b0c0d", "crc32c:0a0b0c0d"),
        ("0" * 32, None, "md5:" + "0" * 32),
        (None, None, None),
    ],
)
def test_the_checksum_of_an_object_is_one_that_all_copies_have(monkeypatch, md5, crc32c, checksum):
    found = StoredObject("gs://b/a.jpg", 5, "1", 1.5, md5, crc32c)
    monkeypatch.setattr(cloud_storage, "stat_object", lambda uri: found)
    assert stat_ref("gs://b/a.jpg").checksum == checksum
