"""Archives from strangers: what is unpacked, and what is refused."""

import gzip
import io
import random
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from transforms.models.safe_archive import ArchiveLimits, BadArchive, is_archive, unpack

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"content") -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def other(name: str, kind: bytes, target: str = "") -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def tar(path: Path, members: Iterable[Member], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_files_and_folders_are_unpacked(tmp_path: Path, mode: str) -> None:
    # A size that is a multiple of the block makes tarfile step back by a byte.
    expected = {"saved_model.pb": b"x" * 512, "variables/a": b"y" * 3_000_000, "variables/b": b""}
    members = [file(f"./{name}", content) for name, content in expected.items()]
    members[1:1] = [other("./", tarfile.DIRTYPE), other("./assets", tarfile.DIRTYPE)]
    unpack(tar(tmp_path / "a", members, mode), tmp_path / "model")
    assert contents(tmp_path / "model") == expected
    assert (tmp_path / "model" / "assets").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]


def test_rights_are_those_of_new_files(tmp_path: Path) -> None:
    member, content = file("run")
    member.mode, member.uid = 0o4777, 0
    unpack(tar(tmp_path / "a", [(member, content)]), tmp_path / "model")
    assert (tmp_path / "model" / "run").stat().st_mode & 0o7111 == 0


HOSTILE = {
    "absolute": ([file("/tmp/evil")], "'/tmp/evil' in it leads out"),
    "parent": ([file("../evil")], "'../evil' in it leads out"),
    "inner parent": ([file("a/../../evil")], "leads out of the folder"),
    "folder outside": ([other("../evil", tarfile.DIRTYPE)], "leads out of the folder"),
    "symbolic link": ([other("l", tarfile.SYMTYPE, "/etc")], "'l' in it is a link"),
    "link and file through it": (
        [other("l", tarfile.SYMTYPE, ".."), file("l/evil")],
        "'l' in it is a link",
    ),
    "hard link": ([file("a"), other("l", tarfile.LNKTYPE, "/etc/passwd")], "is a link"),
    "device": ([other("d", tarfile.CHRTYPE)], "'d' in it is no regular file"),
    "pipe": ([other("p", tarfile.FIFOTYPE)], "'p' in it is no regular file"),
    "twice": ([file("a"), file("./a")], "'./a' is in it twice"),
    "file over folder": ([file("a/b"), file("a")], "'a' is in it twice"),
    "folder over file": ([file("a"), file("a/b")], "'a/b' in it is both a file and a folder"),
    "too many": ([file(str(number)) for number in range(11)], "more than 10 files"),
    "too large": ([file("a", b"x" * 60_000), file("b", b"x" * 60_000)], "more than 100000 bytes"),
    "nothing": ([], "it is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    members, told = HOSTILE[name]
    inner = tmp_path / "inner"
    inner.mkdir()
    tar(inner / "archive", members)
    limits = ArchiveLimits(max_bytes=100_000, max_files=10)
    with pytest.raises(BadArchive, match=re.escape(told)):
        unpack(inner / "archive", inner / "model", limits)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "archive"]


def test_a_file_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    member = tarfile.TarInfo("bomb")
    member.size = 1 << 50
    (tmp_path / "bomb").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(BadArchive, match="unpacks to more than"):
        unpack(tmp_path / "bomb", tmp_path / "model")


def test_a_header_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "bomb").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(BadArchive, match="a header in it claims 4294967296 bytes"):
        unpack(tmp_path / "bomb", tmp_path / "model")


def test_zeros_that_never_end_are_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [file("a")], "w")
    archive.write_bytes(gzip.compress(archive.read_bytes() + bytes(1_000_000)))
    limits = ArchiveLimits(max_bytes=100_000, max_files=10)
    with pytest.raises(BadArchive, match="unpacks to more than"):
        unpack(archive, tmp_path / "model", limits)


@pytest.mark.parametrize("keep", [0, 5, 100, 5_000, -1, -8])
def test_a_cut_archive_is_corrupt(tmp_path: Path, keep: int) -> None:
    whole = tar(tmp_path / "a", [file("a", random.Random(0).randbytes(20_000))]).read_bytes()
    (tmp_path / "a").write_bytes(whole[:keep])
    with pytest.raises(BadArchive, match=r"ends too early|corrupt"):
        unpack(tmp_path / "a", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_damaged_header_is_corrupt(tmp_path: Path, mode: str) -> None:
    path = tar(tmp_path / "a", [file("a", b"x" * 600), file("b"), file("c")], "w")
    damaged = bytearray(path.read_bytes())
    damaged[1536 + 3] ^= 0xFF  # In the name of the second file.
    path.write_bytes(gzip.compress(damaged) if mode == "w:gz" else damaged)
    with pytest.raises(BadArchive, match="corrupt"):
        unpack(path, tmp_path / "model")


def test_a_damaged_byte_fails_the_checksum(tmp_path: Path) -> None:
    stored = gzip.compress(tar(tmp_path / "a", [file("a", b"x" * 600)], "w").read_bytes(), 0)
    damaged = bytearray(stored)
    damaged[stored.index(b"xxx")] = 0
    (tmp_path / "a").write_bytes(damaged)
    with pytest.raises(BadArchive, match="CRC check failed"):
        unpack(tmp_path / "a", tmp_path / "model")


def test_another_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<html>" * 200)
    with pytest.raises(BadArchive, match=r"no \.tar or \.tar\.gz"):
        unpack(tmp_path / "a", tmp_path / "model")


def test_an_archive_is_known_by_the_end_of_its_name() -> None:
    names = ("m.tar.gz", "m.TGZ", "gs://b/m.tar", "m.zip", "m", "m.tar.gz/variables")
    assert [is_archive(name) for name in names] == [True, True, True, False, False, False]
