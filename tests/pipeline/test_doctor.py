import json
import shutil
import socket
import time
from pathlib import Path

import pytest
from http_server import running_server
from hub_server import model as archive_answer
from hub_server import packed
from storage_emulator import storage_emulator, upload
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config import InputConfig, JobConfig, OutputConfig
from pipeline.doctor import damaged_copy
from pipeline.doctor_machine import (
    available_memory,
    check_bfloat16,
    check_gpu,
    check_memory,
    check_packages,
    explain_missing_gpu,
)
from pipeline.doctor_report import exit_status, format_json, format_table, verdict_line
from pipeline.doctor_storage import check_storage, storage_locations
from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.models.untrained_model import UNTRAINED_HANDLE
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel
from transforms.networks.model_checks import Finding

SHARD = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TFHUB_MODEL_LOAD_FORMAT", raising=False)


def doctor(capsys, *arguments):
    """Run the command; return its exit status, and what it found by the name of the check."""
    status = main(["doctor", "--json", *arguments])
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_status"] == status
    return status, {check["check"]: check for check in answer["checks"]}


def failed(checks):
    return [name for name, check in checks.items() if check["verdict"] == "failed"]


# The model.


def test_nothing_is_found_where_nothing_is_wrong(tiny, capsys):
    status, checks = doctor(capsys, "--model", tiny)
    assert (status, failed(checks)) == (0, [])
    assert list(checks) == [
        *("python", "packages", "gpu", "bfloat16", "model", "model files", "size", "runs"),
        *("finite", "deterministic", "batch", "different images", "golden vectors"),
        *("input scaling", "memory", "cloud storage", "bigquery"),
    ]
    assert not [name for name, check in checks.items() if check["verdict"] == "suspect"]
    assert "vectors of 8 values" in checks["runs"]["seen"]
    assert "32 x 32 pixels, the only size" in checks["size"]["seen"]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("nan_always", "finite"),
        ("batch_dependent", "batch"),
        ("scaled_by_batch_maximum", "batch"),
        ("changes_above_8", "batch"),
        ("non_deterministic", "deterministic"),
        ("reject_all", "runs"),
    ],
)
def test_a_fault_of_the_model_is_found(fault, check, tmp_path, capsys):
    status, checks = doctor(capsys, "--model", save_tiny_model(tmp_path / "model", fault=fault))
    assert (status, failed(checks)) == (1, [check])
    assert checks[check]["advice"]


def test_an_error_that_nobody_expected_is_a_failed_check(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model", fault="failed_precondition")
    status, checks = doctor(capsys, "--model", folder)
    assert (status, failed(checks)) == (1, ["runs", "memory"])
    assert "FailedPreconditionError" in checks["memory"]["seen"]
    assert checks["finite"]["verdict"] == "skipped"
    assert main(["doctor", "--model", folder]) == 1
    assert "something is wrong" in capsys.readouterr().out


def test_what_is_only_suspect_stops_nothing(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model", fault="divides_by_255")
    status, checks = doctor(capsys, "--model", folder)
    assert (status, checks["input scaling"]["verdict"]) == (0, "suspect")


def test_another_size_than_the_model_takes_is_found(tiny, capsys):
    status, checks = doctor(capsys, "--model", tiny, "--set", "preprocess.size=[64,48]")
    assert (status, failed(checks)) == (1, ["size"])
    assert "takes images of 32 x 32 only, not of 64 x 48" in checks["size"]["seen"]


def test_a_model_that_names_no_size_needs_one(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "model", image_height=None, image_width=None)
    status, checks = doctor(capsys, "--model", folder)
    assert (status, failed(checks)) == (1, ["size"])
    assert "takes images of any size and names none" in checks["size"]["seen"]
    status, checks = doctor(capsys, "--model", folder, "--set", "preprocess.size=[40,40]")
    assert (status, failed(checks)) == (0, [])
    assert "40 x 40 pixels; the model takes other sizes too" in checks["size"]["seen"]


def test_a_handle_that_leads_to_no_model_is_found(tmp_path, capsys):
    status, checks = doctor(capsys, "--model", str(tmp_path / "nothing"))
    assert (status, failed(checks)) == (1, ["model"])
    assert "no folder or archive that exists" in checks["model"]["seen"]


@pytest.mark.parametrize("lost", ["variables/variables.index", SHARD])
def test_a_folder_that_lacks_a_file_is_found(lost, tiny, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (folder / lost).unlink()
    status, checks = doctor(capsys, "--model", str(folder))
    assert (status, failed(checks)) == (1, ["model", "model files"])
    assert f"has lost {lost}" in checks["model files"]["seen"]


@pytest.mark.parametrize("lost", ["saved_model.pb", SHARD])
def test_a_cache_that_lacks_a_file_is_found_and_mended(lost, tiny, capsys):
    with running_server() as hub:
        hub.answers["/google/model/4"] = archive_answer(packed(tiny))
        handle = hub.url("/google/model/4")
        assert damaged_copy(handle) is None
        folder = Path(resolve_model(handle))
        (folder / lost).unlink()
        assert damaged_copy(handle) == (folder, lost)
        status, checks = doctor(capsys, "--model", handle)
        assert (status, failed(checks)) == (1, ["model files"])
        assert f"had lost {lost}" in checks["model files"]["seen"]
        status, checks = doctor(capsys, "--model", handle)
        assert (status, failed(checks)) == (0, [])


def test_a_cache_that_lacks_a_file_and_cannot_be_mended_is_found(tiny, capsys):
    with running_server() as hub:
        hub.answers["/google/model/4"] = archive_answer(packed(tiny))
        handle = hub.url("/google/model/4")
        (Path(resolve_model(handle)) / SHARD).unlink()
    status, checks = doctor(capsys, "--model", handle)
    assert (status, failed(checks)) == (1, ["model", "model files"])
    assert f"has lost {SHARD}" in checks["model files"]["seen"]
    assert "cannot be fetched again" in checks["model"]["seen"]


@pytest.mark.slow
def test_the_untrained_network_is_well_and_gives_its_golden_vectors(capsys):
    status, checks = doctor(capsys, "--model", UNTRAINED_HANDLE, "--set", "model.batch_size=8")
    assert (status, failed(checks)) == (0, [])
    assert checks["golden vectors"]["verdict"] == "ok"
    assert checks["input scaling"]["verdict"] == "ok"
    assert "untrained" in checks["model"]["seen"]


# The request.


def test_a_table_is_printed_and_progress_stays_out_of_it(tiny, capsys):
    assert main(["doctor", "--model", tiny]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("check ")
    assert out.rstrip().splitlines()[-1].startswith("all well: ")
    assert "looking at the model" in err


def test_a_configuration_of_a_job_is_taken_as_it_is(tiny, tmp_path, capsys):
    config = tmp_path / "job.yaml"
    config.write_text(f"input: {{max_bytes: 1000}}\nmodel: {{handle: {tiny}, batch_size: 4}}\n")
    status, checks = doctor(capsys, "--config", str(config), "--output", "embeddings/")
    assert status == 0
    assert "batches of 4" in checks["memory"]["seen"]


def test_a_wrong_configuration_is_refused(capsys):
    assert main(["doctor", "--set", "model.batch_size=0"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "model.batch_size: 0 is not allowed" in err


# The machine.


def planted(folder, *lines):
    """Make a distribution `planted` of these lines of metadata."""
    info = folder / "planted-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", "Name: planted", "Version: 1.0", *lines]) + "\n"
    )
    return str(folder)


def test_packages_out_of_their_range_are_named(tmp_path, monkeypatch):
    path = planted(
        tmp_path,
        "Requires-Python: >=4",
        "Requires-Dist: numpy<1.2",
        "Requires-Dist: no-such-package>=3",
        "Requires-Dist: pillow",
        "Requires-Dist: another-package; extra == 'dev'",
    )
    monkeypatch.syspath_prepend(path)
    python, packages = check_packages("planted")
    assert (python.verdict, packages.verdict) == ("failed", "failed")
    assert "needs >=4" in python.seen
    problems = packages.seen.split("; ")
    assert len(problems) == 2
    assert problems[0].startswith("numpy is ")
    assert problems[0].endswith(", not <1.2")
    assert problems[1] == "no-such-package is missing"


def test_packages_in_their_range_are_well(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(planted(tmp_path, "Requires-Dist: numpy>=1"))
    assert [finding.verdict for finding in check_packages("planted")] == ["ok", "ok"]


def test_a_project_that_is_not_installed_is_said_so():
    (finding,) = check_packages("no-such-project")
    assert finding.verdict == "failed"


@pytest.mark.parametrize(
    ("facts", "verdict", "told"),
    [
        ({"has_driver": False}, "ok", "no NVIDIA driver"),
        ({"visible": "-1"}, "ok", "CUDA_VISIBLE_DEVICES='-1' hides them"),
        ({"built_with_cuda": False}, "suspect", "built without CUDA"),
        ({"missing_libraries": ["nvidia-cudnn-cu12"]}, "suspect", "missing: nvidia-cudnn-cu12"),
        ({}, "suspect", "opens no GPU"),
    ],
)
def test_why_there_is_no_gpu(facts, verdict, told):
    usual = {"built_with_cuda": True, "has_driver": True, "visible": None, "missing_libraries": []}
    finding = explain_missing_gpu(**usual | facts)
    assert finding.verdict == verdict
    assert told in finding.seen


def test_this_machine_has_an_answer_to_everything():
    assert check_gpu().verdict in ("ok", "suspect")
    assert check_bfloat16().verdict in ("ok", "skipped")
    available = available_memory()
    assert available is None or 0 < available < 1 << 50


def loaded(folder):
    return HubImageModel.load(describe_model(folder), height=32, width=32)


@pytest.mark.skipif(available_memory() is None, reason="the system does not tell its memory")
def test_memory_is_measured_and_taken_in_proportion(tmp_path, tiny):
    images = generated_images(32, 32)
    assert check_memory(loaded(tiny), images, batch_size=4).verdict == "ok"
    small = loaded(save_tiny_model(tmp_path / "model", fault="out_of_memory_above_4"))
    finding = check_memory(small, images, batch_size=16)
    assert finding.verdict == "failed"
    assert "no memory for a batch of 8" in finding.seen
    assert "model.batch_size=2" in finding.advice


@pytest.mark.skipif(available_memory() is None, reason="the system does not tell its memory")
def test_more_copies_than_fit_into_memory_are_found(tiny):
    finding = check_memory(loaded(tiny), generated_images(32, 32), batch_size=4, copies=10**6)
    assert finding.verdict == "failed"
    assert "1000000 copies" in finding.seen


# The storage.


def test_the_locations_of_a_configuration_are_each_named_once():
    config = JobConfig.model_validate(
        {
            "input": InputConfig(patterns=("gs://b/photos/*.jpg", "@gs://b/list.txt", "/local")),
            "output": OutputConfig(path="gs://b/out"),
            "beam": {"temp_location": "gs://b/out", "staging_location": "gs://b/stage"},
        }
    )
    assert storage_locations(config) == (
        "gs://b/photos/*.jpg",
        "gs://b/list.txt",
        "gs://b/out",
        "gs://b/stage",
    )


def test_a_bucket_that_can_be_listed_is_well(tmp_path):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    with storage_emulator() as bucket:
        upload(photo, f"{bucket}/photos/a.jpg")
        full, empty = check_storage([f"{bucket}/photos/*.jpg", f"{bucket}/out"])
    assert (full.verdict, empty.verdict) == ("ok", "ok")
    assert "can be listed;" in full.seen
    assert "nothing lies there yet" in empty.seen


def test_a_bucket_that_does_not_exist_is_found():
    with storage_emulator():
        (finding,) = check_storage(["gs://no-such-bucket/photos"])
    assert finding.verdict == "failed"
    assert "there is no bucket no-such-bucket" in finding.seen


def test_a_storage_that_nobody_answers_for_is_found(tiny, capsys):
    status, checks = doctor(capsys, "--model", tiny, "--input", "gs://bucket/photos")
    assert (status, failed(checks)) == (1, ["cloud storage"])
    assert "it cannot be reached" in checks["cloud storage"]["seen"]


def test_a_model_in_a_storage_that_does_not_answer_is_not_waited_for(capsys):
    begun = time.monotonic()
    status, checks = doctor(capsys, "--model", "gs://bucket/model")
    assert time.monotonic() - begun < 30
    assert (status, failed(checks)) == (1, ["cloud storage"])
    assert checks["model"]["verdict"] == "skipped"
    assert "runs" not in checks


def test_a_storage_that_never_answers_is_given_up(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
        begun = time.monotonic()
        findings = check_storage(["gs://one/a", "gs://two/b"], seconds=1.0)
        assert time.monotonic() - begun < 5
    assert [finding.verdict for finding in findings] == ["failed", "failed"]


def test_credentials_that_are_no_credentials_are_found(tmp_path, monkeypatch):
    broken = tmp_path / "credentials.json"
    broken.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(broken))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    (finding,) = check_storage(["gs://bucket/a"], seconds=10)
    monkeypatch.undo()
    assert finding.verdict == "failed"
    assert "no usable credentials" in finding.seen


# The report.

FINDINGS = [
    Finding("finite", "ok", "no NaN or Inf in 48 values"),
    Finding("batch", "failed", "the vector of an image alone is far away " * 3, "export it"),
]


def test_the_table_fits_its_width_and_says_what_to_do():
    table = format_table(FINDINGS, width=70)
    assert max(map(len, table.splitlines())) <= 70
    assert "-> export it" in table
    assert table.endswith("something is wrong: 1 ok, 1 failed")


def test_json_has_the_same_content_as_the_table():
    answer = json.loads(format_json(FINDINGS))
    assert answer["verdict"] == verdict_line(FINDINGS)
    assert answer["exit_status"] == 1
    assert [Finding(**check) for check in answer["checks"]] == FINDINGS


def test_only_a_failed_check_gives_another_exit_status():
    suspect = Finding("input scaling", "suspect", "seen", "advice")
    assert exit_status([FINDINGS[0], suspect]) == 0
    assert verdict_line([suspect]) == "look at what is suspect: 1 suspect"
    assert exit_status(FINDINGS) == 1
