"""From handles to folders, against a real server of TF Hub's protocol on loopback."""

import contextlib
import fcntl
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from http_server import Server, running_server
from tiny_models import save_tiny_model

from transforms.errors import UnusableModel
from transforms.models.model_cache import cache_folder, keep, missing_file
from transforms.models.model_download import Patience, download_archive
from transforms.models.model_handles import HubAddress
from transforms.models.model_resolution import resolve_model

QUICK = Patience(attempts=3, time_out=0.3, first_pause=0.01, max_bytes=100_000)
SHARD = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def archive(tiny: str) -> bytes:
    return hub_server.packed(tiny)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    for name in ("TFHUB_MODEL_LOAD_FORMAT", "TFHUB_DOWNLOAD_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def model_url(hub: Server, archive: bytes) -> str:
    hub.answers["/google/model/4"] = hub_server.model(archive)
    return hub.url("/google/model/4")


def same_model(folder: str, other: str) -> bool:
    return contents(folder) == contents(other)


def contents(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def copied(files: str, folder: Path) -> Path:
    return Path(shutil.copytree(files, folder, dirs_exist_ok=True))


def resolving(url: str) -> "subprocess.Popen[str]":
    """Start another process that resolves the handle, and says where to."""
    code = "import sys; from transforms.models.model_resolution import resolve_model as resolve\n"
    code += "print(resolve(sys.argv[1]))"
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True, cwd=root
    )


# Addresses.


def test_an_address_is_downloaded_once(hub: Server, model_url: str, tiny: str, cache: Path) -> None:
    folder = resolve_model(model_url)
    assert Path(folder).parent == cache
    assert same_model(folder, tiny)
    assert resolve_model(model_url) == resolve_model(f"{model_url}?tf-hub-format=compressed")
    assert hub.requests == ["/google/model/4?tf-hub-format=compressed"]
    assert list(cache.glob("*.tmp")) == []


def test_redirects_are_followed(hub: Server, archive: bytes, tiny: str) -> None:
    hub.answers["/old/4"] = hub_server.redirect("/new/4?step=1", 301)
    hub.answers["/new/4"] = hub_server.redirect("/storage/model.tar.gz", 302)
    hub.serve("/storage/model.tar.gz", archive)
    assert same_model(resolve_model(hub.url("/old/4")), tiny)


def test_the_address_of_an_archive_is_asked_for_as_it_is(hub: Server, archive: bytes) -> None:
    url = hub.serve("/model.tar.gz", archive)
    resolve_model(f"{url}?signature=a%2Fb+c")
    assert hub.requests == ["/model.tar.gz?signature=a%2Fb+c"]


def test_a_model_in_a_folder_of_the_archive_is_found(hub: Server, tiny: str) -> None:
    hub.answers["/google/model/4"] = hub_server.model(hub_server.packed(tiny, "export"))
    folder = resolve_model(hub.url("/google/model/4"))
    assert same_model(folder, tiny)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (404, "there is no model at .*404.*check the spelling and the version"),
        (403, "may not be read from here .*403.*kaggle.com/models or tfhub.dev.*stage-model"),
        (401, "may not be read from here .*401"),
        (418, "was answered with 418"),
    ],
)
def test_a_refusal_says_what_to_try(hub: Server, status: int, told: str) -> None:
    hub.answers["/google/model/4"] = hub_server.refused(status)
    with pytest.raises(UnusableModel, match=told):
        resolve_model(hub.url("/google/model/4"))
    assert len(hub.requests) == 1


def test_a_refusal_names_the_mirror_and_a_token(hub: Server, tmp_path: Path) -> None:
    hub.answers["/model/4"] = hub_server.refused(403)
    name = "google/inception-resnet-v2/tensorFlow2/feature-vector/2"
    mirror = "https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/5"
    for mirrored, kaggle, told in ((name, None, name), (mirror, name, mirror)):
        address = HubAddress(hub.url("/model/4"), (), mirrored, kaggle)
        with pytest.raises(UnusableModel) as caught:
            download_archive(address, tmp_path / "archive")
        assert f"try {told}, which is said to be the same model" in str(caught.value)
        assert f"kagglehub.model_download({name!r})" in str(caught.value)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", None])
def test_a_login_page_is_no_archive(hub: Server, kind: str | None) -> None:
    hub.answers["/google/model/4"] = hub_server.redirect("/login")
    hub.serve("/login", b"\n<!doctype html><title>Log in</title>", Content_Type=kind)
    with pytest.raises(UnusableModel, match=r"is answered with a web page .* perhaps to log in"):
        resolve_model(hub.url("/google/model/4"))


@pytest.mark.parametrize(
    ("content", "told"),
    [(b'{"code": 5}', "answered with JSON"), (b"PK\x03\x04...", "answered with a zip file")],
)
def test_what_is_no_archive_is_named(hub: Server, content: bytes, told: str) -> None:
    url = hub.serve("/google/model/4", content)
    with pytest.raises(UnusableModel, match=told):
        resolve_model(url)


def test_a_corrupt_archive_is_named(hub: Server, archive: bytes, cache: Path) -> None:
    hub.answers["/google/model/4"] = hub_server.model(archive[:500])
    with pytest.raises(UnusableModel, match=r"the archive http.*ends too early; fetch or pack"):
        resolve_model(hub.url("/google/model/4"))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_an_archive_that_leads_out_of_the_cache_is_refused(hub: Server, cache: Path) -> None:
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w:gz") as packed:
        packed.addfile(tarfile.TarInfo("../../../evil"))
    hub.answers["/google/model/4"] = hub_server.model(hostile.getvalue())
    with pytest.raises(UnusableModel, match=r"'../../../evil' in it leads out of the folder"):
        resolve_model(hub.url("/google/model/4"))
    assert not list(cache.parent.rglob("evil"))


def test_a_cut_download_begins_anew(hub: Server, archive: bytes, tiny: str) -> None:
    hub.answers["/google/model/4"] = hub_server.in_turn(
        hub_server.cut(archive, 1000), hub_server.model(archive)
    )
    assert same_model(resolve_model(hub.url("/google/model/4")), tiny)


def test_a_cut_download_goes_on_where_the_server_can(
    hub: Server, archive: bytes, tmp_path: Path
) -> None:
    rest_only = bytes(1000) + archive[1000:]
    hub.answers["/google/model/4"] = hub_server.in_turn(
        hub_server.cut(archive, 1000, '"v1"'),
        hub_server.refused(503),
        hub_server.model(rest_only, '"v1"'),
    )
    address = HubAddress(hub.url("/google/model/4"), ())
    download_archive(address, tmp_path / "archive", QUICK)
    assert (tmp_path / "archive").read_bytes() == archive


def test_a_model_that_changed_between_two_parts_is_fetched_anew(
    hub: Server, archive: bytes, tmp_path: Path
) -> None:
    hub.answers["/google/model/4"] = hub_server.in_turn(
        hub_server.cut(b"\x1f\x8bolder content", 10, '"v1"'), hub_server.model(archive, '"v2"')
    )
    address = HubAddress(hub.url("/google/model/4"), ())
    download_archive(address, tmp_path / "archive", QUICK)
    assert (tmp_path / "archive").read_bytes() == archive


def test_a_cut_answer_of_unknown_length_is_noticed(
    hub: Server, archive: bytes, tmp_path: Path
) -> None:
    hub.answers["/google/model/4"] = hub_server.in_turn(
        hub_server.cut_in_a_chunk(archive, 1000), hub_server.model(archive)
    )
    address = HubAddress(hub.url("/google/model/4"), ())
    download_archive(address, tmp_path / "archive", QUICK)
    assert (tmp_path / "archive").read_bytes() == archive


def test_a_connection_that_is_always_cut_is_given_up(
    hub: Server, archive: bytes, tmp_path: Path
) -> None:
    hub.answers["/google/model/4"] = hub_server.cut(archive, 1000)
    address = HubAddress(hub.url("/google/model/4"), ())
    told = f"the connection was cut after 1000 of {len(archive)} bytes, 3 times; check the network"
    with pytest.raises(UnusableModel, match=told):
        download_archive(address, tmp_path / "archive", QUICK)
    assert len(hub.requests) == 3


def test_a_silent_server_is_given_up(hub: Server, tmp_path: Path) -> None:
    hub.answers["/google/model/4"] = hub_server.silent(2.0)
    begun = time.monotonic()
    with pytest.raises(UnusableModel, match="the server was silent for too long, 3 times"):
        download_archive(HubAddress(hub.url("/google/model/4"), ()), tmp_path / "archive", QUICK)
    assert time.monotonic() - begun < 1.9


def test_a_slow_server_is_waited_for(hub: Server, archive: bytes, tmp_path: Path) -> None:
    hub.answers["/google/model/4"] = hub_server.slow(archive, seconds=2 * QUICK.time_out)
    download_archive(HubAddress(hub.url("/google/model/4"), ()), tmp_path / "archive", QUICK)
    assert (tmp_path / "archive").read_bytes() == archive


def test_a_download_over_the_limit_is_stopped(hub: Server, tmp_path: Path) -> None:
    hub.serve("/google/model/4", bytes(QUICK.max_bytes + 1))
    with pytest.raises(UnusableModel, match="sends more than 100000 bytes"):
        download_archive(HubAddress(hub.url("/google/model/4"), ()), tmp_path / "archive", QUICK)


def test_an_address_that_nobody_answers_is_refused() -> None:
    with pytest.raises(UnusableModel, match="Connection refused, 4 times; check the network"):
        resolve_model("http://127.0.0.1:9/model/4")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a b/4", "http://127.0.0.1:9/modèle/4"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(UnusableModel, match="is no valid address"):
        resolve_model(url)


def test_a_host_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    address = HubAddress("http://no-such-host.invalid/model/4", ())
    with pytest.raises(UnusableModel, match=r"cannot be downloaded: .*check the network"):
        download_archive(address, tmp_path / "archive", QUICK)


# TF Hub's variables.


def test_the_progress_is_shown_where_it_is_wanted(
    model_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFHUB_DOWNLOAD_PROGRESS", "1")
    resolve_model(model_url)
    assert f"downloaded {model_url}: 0.0 MB\n" in capsys.readouterr().err


@pytest.mark.parametrize("load_format", ["AUTO", "COMPRESSED", ""])
def test_the_compressed_form_is_the_usual_one(
    model_url: str, hub: Server, monkeypatch: pytest.MonkeyPatch, load_format: str
) -> None:
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", load_format)
    resolve_model(model_url)
    assert hub.requests == ["/google/model/4?tf-hub-format=compressed"]


def test_an_unknown_load_format_is_refused(model_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "ZIPPED")
    with pytest.raises(UnusableModel, match="'ZIPPED'; use AUTO, COMPRESSED or UNCOMPRESSED"):
        resolve_model(model_url)


def test_uncompressed_without_a_folder_on_gs_is_refused(
    model_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "UNCOMPRESSED")
    with pytest.raises(UnusableModel, match="404"):
        resolve_model(model_url)


def test_an_answer_that_is_no_redirect_to_gs_is_refused(
    hub: Server, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "UNCOMPRESSED")
    hub.serve("/direct/4", archive)
    hub.answers["/elsewhere/4"] = hub_server.uncompressed("https://host/model")
    for path, status in (("/direct/4", 200), ("/elsewhere/4", 303)):
        with pytest.raises(UnusableModel, match=f"answered with {status} and no gs:// address"):
            resolve_model(hub.url(path))


# The cache.


def test_tensorflow_hub_finds_what_was_downloaded_here(hub: Server, model_url: str) -> None:
    import tensorflow_hub

    folder = resolve_model(model_url)
    assert tensorflow_hub.resolve(model_url) == folder
    assert len(hub.requests) == 1


def test_what_tensorflow_hub_downloaded_is_found_here(
    hub: Server, model_url: str, cache: Path
) -> None:
    import tensorflow_hub

    folder = tensorflow_hub.resolve(model_url)
    assert resolve_model(model_url) == folder
    assert len(hub.requests) == 1
    Path(folder, SHARD).unlink()
    assert resolve_model(model_url) == folder
    assert len(hub.requests) == 2


def test_without_tfhub_cache_dir_the_place_is_tensorflow_hubs(
    model_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert Path(resolve_model(model_url)).parent == tmp_path / "temporary" / "tfhub_modules"


def test_a_model_cached_under_another_spelling_is_found(tiny: str) -> None:
    kaggle = "https://www.kaggle.com/models/google/inception-resnet-v2"
    cached = cache_folder(f"{kaggle}/frameworks/TensorFlow2/variations/feature-vector/versions/2")
    copied(tiny, cached)
    handle = "google/inception-resnet-v2/tensorFlow2/feature-vector/2"
    assert resolve_model(handle) == str(cached)
    tfhub = "https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/4"
    copied(tiny, cache_folder(tfhub))
    assert resolve_model(f"{tfhub}/?tf-hub-format=compressed") == str(cache_folder(tfhub))


def test_what_kagglehub_downloaded_is_found(tiny: str, tmp_path: Path) -> None:
    name = "google/inception-resnet-v2/tensorFlow2/feature-vector/1"
    cached = copied(tiny, tmp_path / "kagglehub" / "models" / name)
    for handle in (name, f"https://www.kaggle.com/models/{name}/"):
        assert resolve_model(handle) == str(cached)


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index", SHARD])
def test_half_a_model_in_the_cache_is_fetched_again(
    hub: Server, model_url: str, tiny: str, lost: str
) -> None:
    folder = Path(resolve_model(model_url))
    (folder / lost).unlink()
    assert missing_file(folder) == lost
    assert resolve_model(model_url) == str(folder)
    assert same_model(str(folder), tiny)
    assert len(hub.requests) == 2


def test_a_shortened_file_in_the_cache_is_fetched_again(model_url: str, tiny: str) -> None:
    folder = Path(resolve_model(model_url))
    with (folder / SHARD).open("r+b") as shard:
        shard.truncate(10)
    assert same_model(resolve_model(model_url), tiny)


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index", SHARD])
def test_half_a_model_that_others_put_there_is_noticed(
    tiny: str, tmp_path: Path, lost: str
) -> None:
    folder = copied(tiny, tmp_path / "model")
    assert missing_file(folder) is None
    (folder / lost).unlink()
    assert missing_file(folder) == lost


def test_a_model_without_any_of_its_variables_is_noticed(tiny: str, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "model")
    shutil.rmtree(folder / "variables")
    assert missing_file(folder) == "variables/variables.index"


def test_half_a_model_without_a_network_is_named(tiny: str) -> None:
    url = "http://127.0.0.1:9/model/4"
    folder = copied(tiny, cache_folder(url))
    (folder / SHARD).unlink()
    with pytest.raises(UnusableModel) as caught:
        resolve_model(url)
    assert f"{folder}, where {url} was kept, has lost {SHARD}" in str(caught.value)
    assert "cannot be fetched again" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "stage-model" in str(caught.value)
    assert (folder / "saved_model.pb").is_file()


def test_processes_that_ask_at_once_download_once(hub: Server, archive: bytes) -> None:
    hub.answers["/google/model/4"] = hub_server.slow(archive, seconds=1.5)
    workers = [resolving(hub.url("/google/model/4")) for _ in range(3)]
    folders = {worker.communicate()[0] for worker in workers}
    assert folders == {f"{cache_folder(hub.url('/google/model/4'))}\n"}
    assert len(hub.requests) == 1


def test_a_killed_download_stops_nobody(hub: Server, archive: bytes, cache: Path) -> None:
    hub.answers["/google/model/4"] = hub_server.in_turn(
        hub_server.slow(archive, seconds=60), hub_server.model(archive)
    )
    worker = resolving(hub.url("/google/model/4"))
    while not list(cache.glob("*.tmp/archive")):
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()
    begun = time.monotonic()
    resolve_model(hub.url("/google/model/4"))
    assert time.monotonic() - begun < 5
    assert list(cache.glob("*.tmp")) == []


def test_a_stale_lock_of_tensorflow_hub_stops_nobody(model_url: str, cache: Path) -> None:
    cache.mkdir()
    lock = cache / f"{cache_folder(model_url).name}.lock"
    lock.write_text(f"{socket.gethostname()}.{os.getpid()}.0123456789abcdef")
    begun = time.monotonic()
    resolve_model(model_url)
    assert time.monotonic() - begun < 5


@contextlib.contextmanager
def held_lock(url: str) -> Iterator[Path]:
    """The lock of a download, held by somebody who does nothing, or not yet."""
    folder = cache_folder(url)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.embed-images.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def test_a_process_that_hangs_is_waited_for_no_longer_than_patience(tiny: str) -> None:
    def fetch(workplace: Path) -> Path:
        return copied(tiny, workplace / "model")

    with held_lock("http://host/4") as folder:
        begun = time.monotonic()
        assert keep("http://host/4", "http://host/4", fetch, patience=0.5) == str(folder)
        assert 0.5 <= time.monotonic() - begun < 2
    assert missing_file(folder) is None


def test_a_model_that_somebody_else_completes_is_taken(tiny: str) -> None:
    def fetch(workplace: Path) -> Path:
        # tensorflow_hub, which knows nothing of our locks, is quicker.
        copied(tiny, cache_folder("http://host/4"))
        return copied(tiny, workplace / "model")

    folder = keep("http://host/4", "http://host/4", fetch)
    assert same_model(folder, tiny)


def test_a_cache_that_cannot_be_written_is_named(
    model_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UnusableModel, match=r"cannot be kept in .*set TFHUB_CACHE_DIR to a folder"):
        resolve_model(model_url)


def test_a_cached_model_is_found_without_tensorflow_in_milliseconds(model_url: str) -> None:
    resolve_model(model_url)
    code = (
        "import sys, time; from transforms.models.model_resolution import resolve_model\n"
        "begun = time.monotonic(); resolve_model(sys.argv[1])\n"
        "assert time.monotonic() - begun < 0.05\n"
        "assert not {'tensorflow', 'tensorflow_hub', 'apache_beam'} & set(sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code, model_url], check=True, cwd=root)


# Local folders and archives.


def test_a_folder_is_its_own_model(tiny: str) -> None:
    assert resolve_model(tiny) == tiny
    assert resolve_model(f"file://{tiny}") == tiny


def test_the_working_folder_may_be_the_model(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    assert resolve_model(".") == "."


@pytest.mark.parametrize(
    ("name", "mode"), [("m.tar.gz", "w:gz"), ("m.tgz", "w:gz"), ("m.tar", "w")]
)
@pytest.mark.parametrize("inner", [".", "model"])
def test_a_local_archive_is_unpacked_once(
    tiny: str, tmp_path: Path, name: str, mode: str, inner: str
) -> None:
    with tarfile.open(tmp_path / name, mode) as packed:  # type: ignore[call-overload]
        packed.add(tiny, inner)
    folder = resolve_model(str(tmp_path / name))
    assert same_model(folder, tiny)
    inode = os.stat(folder).st_ino
    assert resolve_model(str(tmp_path / name)) == folder
    assert os.stat(folder).st_ino == inode


def test_an_archive_that_was_packed_anew_is_another_model(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(hub_server.packed(tiny))
    first = resolve_model(str(path))
    path.write_bytes(hub_server.packed(save_tiny_model(tmp_path / "other", seed=1)))
    assert not same_model(resolve_model(str(path)), first)


def test_an_archive_without_one_model_is_refused(tiny: str, tmp_path: Path) -> None:
    copied(tiny, tmp_path / "two" / "a")
    copied(tiny, tmp_path / "two" / "b")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "weights.h5").touch()
    for name, told in (
        ("two", "holds several models: a and b; give one"),
        ("none", r"no saved_model.pb; it holds weights.h5"),
    ):
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(hub_server.packed(tmp_path / name))
        with pytest.raises(UnusableModel, match=told):
            resolve_model(str(path))


def test_half_a_local_model_is_refused(tiny: str, tmp_path: Path) -> None:
    copied(tiny, tmp_path / "model")
    (tmp_path / "model" / SHARD).unlink()
    with pytest.raises(UnusableModel, match=f"no complete model: {SHARD} is missing"):
        resolve_model(str(tmp_path / "model"))


def test_a_shard_that_others_count_is_missed(tiny: str, tmp_path: Path) -> None:
    variables = copied(tiny, tmp_path / "model") / "variables"
    (variables / "variables.data-00000-of-00001").rename(
        variables / "variables.data-00002-of-00003"
    )
    (variables / "variables.data-00000-of-00003").touch()
    assert missing_file(tmp_path / "model") == "variables/variables.data-00001-of-00003"


def test_what_is_no_model_is_refused_with_what_was_found(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photographs").mkdir()
    for number in range(7):
        (tmp_path / "photographs" / f"{number}.jpg").touch()
    (tmp_path / "weights.h5").touch()
    copied(tiny, tmp_path / "versions" / "4")
    for handle, told in (
        (tmp_path / "missing", "no folder or archive that exists"),
        (tmp_path / "missing.tar.gz", "no folder or archive that exists"),
        (tmp_path / "empty", "no saved_model.pb; it is empty"),
        (tmp_path / "photographs", r"it holds 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\."),
        (tmp_path / "weights.h5", "is a file; give the folder of a SavedModel, or a .tar.gz"),
        (Path(tiny) / "saved_model.pb", f"is a file; give {tiny}"),
        (tmp_path / "versions", f"{tmp_path / 'versions' / '4'} does; give that one"),
        ("", "no folder or archive that exists"),
        ("untrained:inception_resnet_v3", "did you mean 'untrained:inception_resnet_v2'"),
    ):
        with pytest.raises(UnusableModel, match=told):
            resolve_model(str(handle))
