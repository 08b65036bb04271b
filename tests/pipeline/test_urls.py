"""URLs as inputs of the command, served by a real server on loopback."""

import json

import pytest
from http_server import Request, running_server
from sample_images import jpeg_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.search.read_embeddings import read_embeddings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def run(model, output, *arguments):
    flags = ["--output", output, "--model", model, "--max-failure-ratio=1", *arguments]
    return main(["run", *map(str, flags)])


def dead_letters(output):
    (path,) = (output / "dead_letters").iterdir()
    letters = [json.loads(line) for line in path.read_text().splitlines()]
    return {letter["uri"]: (letter["error"], letter["message"]) for letter in letters}


def test_urls_of_lists_and_inputs_become_vectors_or_dead_letters(model, tmp_path):
    with running_server() as server:
        named = server.serve("/named.jpg", jpeg_bytes(seed=1)) + "?size=*"
        listed = server.serve("/listed.jpg", jpeg_bytes(seed=2))
        gone = server.url("/gone.jpg?signature=secret")
        page = server.serve("/page", b"<html>not an image</html>")
        (tmp_path / "list.txt").write_text("\n".join([listed, gone, page]))
        inputs = ["--input", named, "--input", f"@{tmp_path}/list.txt"]
        allowed = "--set=input.allow_private_addresses=true"
        assert run(model, tmp_path / "out", *inputs, allowed) == 0
    assert sorted(read_embeddings(str(tmp_path / "out")).uris) == sorted([named, listed])
    letters = dead_letters(tmp_path / "out")
    assert letters.keys() == {gone, page}
    assert letters[gone][0] == "ImageNotFound"
    assert "secret" not in letters[gone][1]
    assert letters[page][0] == "UndecodableImage"


def test_the_own_network_is_closed_and_the_time_out_holds_by_configuration(model, tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg_bytes())
    with running_server() as server:
        url = server.serve("/a.jpg", jpeg_bytes(seed=1))
        server.answers["/slow.jpg"] = Request.drip
        slow = server.url("/slow.jpg")
        assert run(model, tmp_path / "closed", "--input", photo, "--input", url) == 0
        assert server.requests == []
        settings = [
            "--set=input.allow_private_addresses=true",
            "--set=input.http_timeout_seconds=1",
        ]
        inputs = ["--input", photo, "--input", slow]
        assert run(model, tmp_path / "slow", *inputs, *settings) == 0
    assert dead_letters(tmp_path / "closed")[url][0] == "ImageForbidden"
    error, message = dead_letters(tmp_path / "slow")[slow]
    assert error == "ImageUnreachable"
    assert "was not read in 1 seconds" in message
