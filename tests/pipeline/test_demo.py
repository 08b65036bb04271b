"""The demo: real photographs, a run, and the neighbours of one of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import demo
from transforms.errors import RequestError


def test_the_photographs_are_real_and_leave_out_what_is_named(tmp_path):
    count = demo.gather_photographs(tmp_path / "deep" / "photos")

    gathered = sorted(path.name for path in (tmp_path / "deep" / "photos").iterdir())
    assert len(gathered) == count >= 20
    assert {"astronaut.png", "china.jpg", "flower.jpg", demo.QUERY} <= set(gathered)
    assert not set(gathered) & set(demo.NO_PHOTOGRAPHS)
    for name in gathered:
        with Image.open(tmp_path / "deep" / "photos" / name) as image:
            image.load()
            assert min(image.size) >= 100


def test_what_is_left_out_is_really_there():
    """So that the list does not outlive the files."""
    for package in demo.PHOTOGRAPHS:
        folder = demo.find_photographs(package)[0].parent
        present = {path.name for path in folder.iterdir()}
        if package == "skimage":
            assert set(demo.NO_PHOTOGRAPHS) <= present


def test_a_missing_package_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.PHOTOGRAPHS, "no_such_package", "data")

    with pytest.raises(RequestError, match=r"no_such_package.*pip install 'embed-images\[demo\]'"):
        demo.gather_photographs(tmp_path / "photos")


def test_a_folder_that_cannot_be_written_is_a_wrong_request(tmp_path):
    (tmp_path / "file").write_text("in the way")

    answer = subprocess.run(
        [sys.executable, "-m", "pipeline.demo", "--folder", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        cwd=Path(demo.__file__).parents[1],
        check=False,
    )

    assert answer.returncode == 2
    assert answer.stderr.startswith("error: cannot write the photographs into ")
    assert answer.stderr.count("\n") == 1


def test_the_exit_status_of_the_run_is_passed_on(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("where the run wants a folder for its models")
    monkeypatch.setenv("EMBED_IMAGES_CACHE", str(tmp_path / "file"))

    assert demo.main(["--folder", str(tmp_path)]) == 2
    captured = capfd.readouterr()
    assert "EMBED_IMAGES_CACHE" in captured.err
    assert "Nearest" not in captured.out


def test_the_table_ranks_the_others_and_leaves_the_query_out():
    uris = ["/photos/a.png", "/photos/query.png", "/photos/b.png", "/photos/c.png"]
    vectors = np.array([[0, 1], [1, 0], [1, 1], [-1, 0]], np.float32)

    lines = demo.neighbour_table(uris, vectors, "query.png", count=2).splitlines()

    assert "query.png" in lines[0]
    assert "untrained" in lines[0]
    assert [line.split() for line in lines[-3:]] == [
        ["rank", "cosine", "file"],
        ["1", "0.707", "b.png"],
        ["2", "0.000", "a.png"],
    ]
