"""The command `plan` on real files: what it counts, measures, prints and refuses."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sample_images import jpeg_bytes, png_bytes
from storage_emulator import storage_emulator, upload
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config import InputConfig
from pipeline.plan_profile import default_profile_text
from pipeline.plan_sample import Listing, list_and_sample
from transforms.errors import RequestError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 files: 24 JPEGs, 8 PNGs, 6 that cannot be decoded, 2 above the limit of 100 kB; a text."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(24):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(100, 50, seed=number))
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png_bytes(40, 40, seed=number))
    hostile = [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\xff" * 99, b"<html>", bytes(500)]
    for number, content in enumerate([*hostile, jpeg_bytes()[:300]]):
        (folder / f"bad{number}.jpg").write_bytes(content)
    for number in range(2):
        (folder / f"large{number}.bmp").write_bytes(bytes(200_000))
    (folder / "notes.txt").write_text("not an image")
    return folder


LIMIT = ("--set", "input.max_bytes=100000")


def plan(capsys: Captured, *arguments: object) -> dict[str, Any]:
    """Run the command, which has to succeed, and return its JSON."""
    assert main(["plan", "--json", *map(str, arguments)]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: Captured, *arguments: object) -> str:
    """Run the command, which has to refuse, and return what it says."""
    assert main(["plan", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def with_rates(folder: Path) -> str:
    """Return a profile that knows both rates of this machine, so that no model is loaded."""
    text = default_profile_text()
    for key, value in (("decode", 100.0), ("inference", 100.0)):
        known = f"{{images_per_second: {value}, kind: measured, source: a test}}"
        text = text.replace(f"\n  {key}: null", f"\n  {key}: {known}", 1)
    path = folder / "rates.yaml"
    path.write_text(text)
    return str(path)


# What is there.


def test_all_that_is_there_is_counted(capsys: Captured, tiny: str, photographs: Path) -> None:
    answer = plan(capsys, "--input", photographs, "--model", tiny, *LIMIT)

    images = [path for path in photographs.iterdir() if path.suffix != ".txt"]
    assert (answer["images"], answer["ignored_files"], answer["sample"]) == (40, 1, 40)
    assert answer["bytes_listed"] == sum(path.stat().st_size for path in images)
    assert answer["formats"] == {"JPEG": 24, "PNG": 8}
    assert answer["megapixels_largest"] == 0.005
    assert {name: share["seen"] for name, share in answer["failures"].items()} == {
        "UndecodableImage": 6,
        "ImageTooLarge": 2,
        "any": 8,
    }
    # Every image was looked at, so nothing is left to chance.
    assert [answer[f"expected_failures{end}"] for end in ("", "_low", "_high")] == [8, 8, 8]
    assert answer["embedding_width"] == 8
    assert answer["vector_bytes"] == 32 * 8 * 4
    assert "the job will fail" in answer["notes"][0] or "the job will fail" in answer["notes"][1]


def test_a_sample_says_how_sure_it_is(capsys: Captured, tiny: str, photographs: Path) -> None:
    arguments = ("--input", photographs, "--model", tiny, "--sample", 20, *LIMIT)
    answer, again = plan(capsys, *arguments), plan(capsys, *arguments)

    assert answer["sample"] == 20
    assert answer["expected_failures_low"] <= 8 <= answer["expected_failures_high"]
    assert answer["expected_failures_low"] < answer["expected_failures_high"]
    assert [each["formats"] for each in (answer, again)] == [answer["formats"]] * 2


def test_this_machine_is_measured_and_others_are_reckoned(
    capsys: Captured, tiny: str, photographs: Path
) -> None:
    answer = plan(capsys, "--input", photographs, "--model", tiny, "--set", "model.batch_size=8")
    here, kinds = answer["here"], {each["name"]: each for each in answer["machines"]}

    assert here["decode"]["kind"] == here["inference"]["kind"] == "measured"
    decoding = here["decode"]["images_per_second"] * here["processors"]
    # Some of these tiny files are not decoded, so the network has less to do.
    inferring = here["inference"]["images_per_second"] / (answer["formats"]["JPEG"] + 8) * 40
    assert here["images_per_second"] == pytest.approx(1 / (1 / decoding + 1 / inferring))
    assert here["hours"] == pytest.approx(40 / here["images_per_second"] / 3600)
    assert here["usd"] is None
    assert list(kinds) == ["t4", "l4", "a100", "cpu"]
    assert kinds["t4"]["inference"] is None
    assert kinds["t4"]["at_most"] is True
    assert kinds["cpu"]["inference"]["kind"] == "derived"
    assert kinds["cpu"]["usd"] == pytest.approx(
        kinds["cpu"]["hours"] * kinds["cpu"]["workers"] * kinds["cpu"]["usd_hour"]
    )
    assert (answer["choice"]["machine"], answer["choice"]["batch_size"]) == ("here", 8)


def test_sizes_that_no_list_tells_are_estimated(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    named = [f"{photographs}/{number}.jpg" for number in range(24)]
    (tmp_path / "rows.csv").write_text("uri,label\n" + "".join(f"{each},x\n" for each in named))
    known = sum(Path(each).stat().st_size for each in named)

    profile = ("--profile", with_rates(tmp_path))
    manifest = plan(capsys, "--input", f"@{tmp_path}/rows.csv", "--model", tiny, *profile)
    both = ("--input", f"@{tmp_path}/rows.csv", "--input", photographs / "0.png")
    mixed = plan(capsys, *both, "--model", tiny, *profile)

    assert (manifest["images"], manifest["images_of_unknown_size"]) == (24, 24)
    assert manifest["bytes_listed"] == 0
    assert manifest["bytes_estimated"] == pytest.approx(known)
    assert mixed["bytes_listed"] == (photographs / "0.png").stat().st_size
    assert mixed["bytes_estimated"] == pytest.approx(known)
    assert any("counts twice" in note for note in mixed["notes"])


def test_rows_that_name_nothing_fail_for_certain(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    rows = [f"{photographs}/0.jpg", f"{photographs}/1.jpg", "", f"{photographs}/missing.jpg"]
    (tmp_path / "rows.csv").write_text("uri,label\n" + "".join(f"{each},x\n" for each in rows))
    answer = plan(
        capsys,
        *("--input", f"@{tmp_path}/rows.csv", "--model", tiny, "--profile", with_rates(tmp_path)),
    )

    assert (answer["images"], answer["sample"]) == (4, 3)
    assert answer["bad_rows"] == {"InvalidUri": 1}
    assert answer["failures"]["ImageNotFound"]["seen"] == 1
    assert answer["expected_failures"] == 2


def test_what_an_earlier_run_wrote_is_no_input(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((photographs / "0.jpg").read_bytes())
    flags = ("--input", f"{folder}/*", "--output", folder, "--model", tiny)
    assert main(["run", *map(str, flags)]) == 0
    assert {path.name for path in folder.iterdir()} > {"a.jpg", "run.json"}
    capsys.readouterr()

    assert plan(capsys, *flags, "--profile", with_rates(tmp_path))["images"] == 1


def test_a_bucket_is_planned_like_a_folder(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    with storage_emulator() as bucket:
        upload(photographs, f"{bucket}/photos")
        arguments = ("--model", tiny, "--profile", with_rates(tmp_path), *LIMIT)
        remote = plan(capsys, "--input", f"{bucket}/photos/**", *arguments)
        missing = refused(capsys, "--input", f"{bucket}/nothing", *arguments)
    local = plan(capsys, "--input", f"{photographs}/**", *arguments)

    assert "nothing" in missing
    for key in ("images", "bytes_listed", "formats", "failures", "expected_failures"):
        assert remote[key] == local[key]


@pytest.mark.parametrize("rates_are_known", [False, True])
def test_of_a_sample_that_is_broken_as_a_whole_nothing_is_reckoned(
    capsys: Captured, tiny: str, tmp_path: Path, rates_are_known: bool
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(20):
        (broken / f"{number}.jpg").write_bytes(b"no image")
    flags = ["--input", str(broken), "--model", tiny, "--sample", "15"]
    flags += ["--profile", with_rates(tmp_path)] if rates_are_known else []
    answer = plan(capsys, *flags)
    assert main(["plan", *flags]) == 0
    table = capsys.readouterr().out

    if not rates_are_known:
        assert answer["here"]["decode"] is answer["here"]["inference"] is None
    for each in (answer["here"], *answer["machines"]):
        assert [each[key] for key in ("images_per_second", "workers", "hours", "usd")] == [None] * 4
        assert each["at_most"] is False
    assert answer["choice"]["machine"] is None
    (reason,) = answer["choice"]["reasons"]
    assert "no image of the sample could be decoded" in reason
    assert any("the job will fail" in note for note in answer["notes"])
    assert "chosen     no machine" in table


def test_large_jpegs_are_tried_with_scaled_decoding(
    capsys: Captured, tiny: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        size = (1000, 800) if number < 4 else (60, 40)
        (photos / f"{number}.jpg").write_bytes(jpeg_bytes(*size, seed=number))
    flags = ["--input", str(photos), "--model", tiny]
    answer = plan(capsys, *flags)
    assert main(["plan", *flags]) == 0
    table = " ".join(capsys.readouterr().out.split())
    scaled = plan(capsys, *flags, "--set", "preprocess.scaled_decoding=auto")

    gain = answer["scaled_decoding"]
    assert (gain["images"], gain["sample"]) == (4, 6)
    assert gain["times_as_fast"] > 0
    assert "preprocess.scaled_decoding=auto would decode" in table
    assert "(4 of 6 images at a smaller scale; other vectors: docs/preprocessing.md)" in table
    # A job that decodes so already is measured so.
    assert scaled["scaled_decoding"] is None


# What it prints.


def test_rates_of_a_profile_are_not_measured_again(
    capsys: Captured, photographs: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    model = save_tiny_model(tmp_path / "model", log=log)
    flags = ("--input", photographs, "--model", model, "--profile", with_rates(tmp_path))
    answer = plan(capsys, *flags)

    assert not log.exists()
    assert answer["here"]["decode"]["source"] == "a test"
    assert answer["here"]["inference"]["images_per_second"] == 100.0
    assert answer["profile"] == flags[-1]


def test_untrained_weights_are_named_as_a_stand_in(
    capsys: Captured, photographs: Path, tmp_path: Path
) -> None:
    model = Path(save_tiny_model(tmp_path / "model"))
    (model / "model.json").write_text(json.dumps({"untrained": True}))
    flags = ["--input", str(photographs), "--model", str(model)]
    flags += ["--profile", with_rates(tmp_path)]

    assert main(["plan", *flags]) == 0
    assert "untrained weights: a stand-in, not for use" in capsys.readouterr().out
    assert plan(capsys, *flags)["untrained"] is True


def test_the_table_says_what_the_json_says(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    flags = ["--input", str(photographs), "--model", tiny, "--profile", with_rates(tmp_path)]
    answer = plan(capsys, *flags)
    assert main(["plan", *flags]) == 0
    table = capsys.readouterr().out

    for each in (answer["here"], *answer["machines"]):
        row = next(line for line in table.splitlines() if line.startswith(f"{each['name']} "))
        assert each["machine_type"] in row
        assert f"{each['images_per_second']:,.1f}" in row
    assert "us-central1" in table
    assert "<=" in table
    assert "every image was looked at" in table


def test_the_default_profile_can_be_printed_changed_and_given_back(
    capsys: Captured, tiny: str, photographs: Path, tmp_path: Path
) -> None:
    assert main(["plan", "--print-profile"]) == 0
    text = capsys.readouterr().out
    assert text == default_profile_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("usd_hour: null", "usd_hour: 3.6", 1))

    answer = plan(capsys, "--input", photographs, "--model", tiny, "--profile", mine)

    assert answer["here"]["usd"] == pytest.approx(3.6 * answer["here"]["hours"])


@pytest.mark.parametrize("what", ["profile", "plan"])
def test_nobody_has_to_read_the_answer(
    tiny: str, photographs: Path, tmp_path: Path, what: str
) -> None:
    profile = with_rates(tmp_path)
    arguments = {
        "profile": ["--print-profile"],
        "plan": ["--json", "--input", str(photographs), "--model", tiny, "--profile", profile],
    }
    unread, answer = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "plan", *arguments[what]],
            stdout=answer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            text=True,
            check=False,
        )
    finally:
        os.close(answer)

    assert done.returncode == 0
    assert "BrokenPipe" not in done.stderr


# What it refuses.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=a", "--sampel=5"], "unknown flag --sampel; did you mean --sample?"),
        (["--input=a", "--sample=0"], "--sample is '0'; use a whole number from 1 to 10000"),
        (["--input=a", "--sample=²"], "--sample is '²'"),
        (["--input=a", "--profile"], "--profile needs a value"),
        (["--input=a", "--profile=none.yaml"], "--profile: there is no file none.yaml"),
        (["--input=a", "--set", "model.batchsize=2"], "did you mean model.batch_size?"),
        (["--input=a", "--set", "beam.no_such=1"], "no_such"),
        ([], "--input is missing"),
        (["--input=bq://p.d.t"], "a table costs to ask"),
        (["--input-query=SELECT 1"], "a query costs to run"),
        (["--input=tfrecord:a"], "plan does not count the images inside TFRecords"),
        (["--input=missing-folder/"], "missing-folder"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_done(
    capsys: Captured, arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *arguments)


def test_a_bucket_that_is_not_there_is_refused(capsys: Captured, tiny: str) -> None:
    with storage_emulator():
        said = refused(capsys, "--input", "gs://no-such-bucket/photos/**", "--model", tiny)

    assert "gs://no-such-bucket" in said


def test_a_bucket_that_fails_while_images_are_read_is_refused(
    capsys: Captured, tiny: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("gs://no-such-bucket/a.jpg\n")
    with storage_emulator():
        said = refused(capsys, "--input", f"@{tmp_path}/list.txt", "--model", tiny)

    assert "gs://no-such-bucket/a.jpg cannot be read" in said


def test_a_precision_that_is_not_to_be_had_here_is_left_unmeasured(
    capsys: Captured, tiny: str, photographs: Path
) -> None:
    answer = plan(
        capsys, "--input", photographs, "--model", tiny, "--set", "model.precision=float16", *LIMIT
    )

    assert answer["here"]["inference"] is None
    assert answer["here"]["at_most"] is True
    assert answer["precision"] == "float16"
    # The description of the model tells it, though nothing was loaded.
    assert answer["vector_bytes"] == 32 * 8 * 4


def test_a_model_that_cannot_be_used_is_refused(
    capsys: Captured, photographs: Path, tmp_path: Path
) -> None:
    broken = save_tiny_model(tmp_path / "model", fault="nan_always")

    assert "NaN" in refused(capsys, "--input", photographs, "--model", broken)


# How it samples.


def test_every_image_has_the_same_chance(tmp_path: Path) -> None:
    listing = Listing()
    names = [f"/photos/{number}.jpg" for number in range(20_000)]
    (tmp_path / "many.txt").write_text("\n".join(names))
    list_and_sample(InputConfig(patterns=(f"@{tmp_path}/many.txt",)), (), None, 2000, listing)
    tenths = Counter(int(Path(ref.uri).stem) // 2000 for ref in listing.sample)
    # 200 are expected in each tenth, with a standard deviation of about 13.
    assert all(140 < tenths[tenth] < 260 for tenth in range(10))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for count in (5_000, 50_000):
        path = tmp_path / f"{count}.txt"
        path.write_text("".join(f"/photos/folder/{number:09d}.jpg\n" for number in range(count)))
        config = InputConfig(patterns=(f"@{path}",))
        listing = Listing()
        tracemalloc.start()
        list_and_sample(config, (), None, 100, listing)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert listing.images == count

    assert peaks[1] < peaks[0] + 1_000_000


def test_an_input_that_cannot_be_listed_to_its_end_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text('uri,label\n/a.jpg,x\n/b.jpg,"never closed\n/c.jpg,x\n')

    with pytest.raises(RequestError, match=r"rows.csv: it cannot be listed"):
        list_and_sample(InputConfig(patterns=(f"@{rows}",)), (), None, 5, Listing())
