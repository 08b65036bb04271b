"""The precision of a run: in its rows, in run.json, and settled by `auto`."""

import json
from pathlib import Path

import awkward_models
import numpy as np
import pytest
from awkward_models import SIDE, save_network
from convolutional_models import save_convolutional_model
from sample_images import png_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config import ModelConfig
from pipeline.doctor_machine import check_precision
from pipeline.encoder import ImageEncoder
from pipeline.precision import precision_of_outputs
from transforms.errors import RequestError
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.incremental_runs import VectorSet
from transforms.models.model_description import describe_model
from transforms.networks.device import device_kind, why_not
from transforms.networks.hub_model import HubImageModel
from transforms.networks.vector_distance import cosine_distances
from transforms.records import OutputLayout
from transforms.search.read_embeddings import read_embeddings

needs_bfloat16 = pytest.mark.skipif(
    why_not("bfloat16") is not None, reason=str(why_not("bfloat16"))
)
needs_no_gpu = pytest.mark.skipif(device_kind() == "gpu", reason="this machine has a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_convolutional_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png_bytes(seed=number))
    return folder


def run(photographs, output, model, *flags):
    arguments = ["--input", photographs, "--output", output, "--model", model, *flags]
    return main(["run", *map(str, arguments)])


def report_of(folder):
    return json.loads((Path(folder) / "run.json").read_text())


@needs_bfloat16
def test_the_precision_is_in_every_row_and_in_the_report(photographs, model, tmp_path):
    full, short = tmp_path / "full", tmp_path / "short"
    assert run(photographs, full, model) == 0
    assert run(photographs, short, model, "--set", "model.precision=bfloat16") == 0
    tables = [read_embeddings(str(folder)) for folder in (full, short)]
    assert [table.provenance.precision for table in tables] == ["float32", "bfloat16"]
    assert [report_of(folder)["model"]["precision"] for folder in (full, short)] == [
        "float32",
        "bfloat16",
    ]
    first, second = (table.vectors[np.argsort(table.uris)] for table in tables)
    assert 0 < cosine_distances(first, second).max() < 1e-4


@needs_bfloat16
def test_a_later_run_with_auto_takes_the_precision_of_the_output_and_loads_nothing(
    photographs, model, tmp_path, capsys
):
    output = tmp_path / "out"
    flags = ["--incremental", "--set"]
    assert run(photographs, output, model, *flags, "model.precision=bfloat16") == 0
    capsys.readouterr()
    assert run(photographs, output, model, *flags, "model.precision=auto") == 0
    told = capsys.readouterr().err
    assert "trying" not in told
    runs = sorted((output / "runs").iterdir())
    reports = [report_of(folder) for folder in runs]
    assert [report["model"]["precision"] for report in reports] == ["bfloat16", "bfloat16"]
    assert reports[1]["config"]["model"]["precision"] == "auto"
    assert reports[1]["counts"]["embedded"] == 0

    assert run(photographs, output, model, *flags, "model.precision=float32") == 2
    assert "bfloat16)" in capsys.readouterr().err


def test_auto_says_what_it_chose_and_the_rows_say_it_too(photographs, model, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(photographs, output, model, "--set", "model.precision=auto") == 0
    precision = report_of(output)["model"]["precision"]
    assert precision in ("float32", "bfloat16", "float16")
    assert f"model.precision=auto is {precision}: " in capsys.readouterr().err
    assert read_embeddings(str(output)).provenance.precision == precision


@needs_no_gpu
def test_a_precision_that_this_machine_has_not_is_refused_before_any_work(
    photographs, model, tmp_path, capsys
):
    output = tmp_path / "out"
    assert run(photographs, output, model, "--set", "model.precision=float16") == 2
    assert "this machine does not compute in float16" in capsys.readouterr().err
    assert not output.exists() or not any(output.iterdir())


@needs_bfloat16
def test_a_model_with_nothing_to_compute_in_bfloat16_is_refused(photographs, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    output = tmp_path / "out"
    assert run(photographs, output, model, "--set", "model.precision=bfloat16") == 2
    assert "use model.precision=float32" in capsys.readouterr().err


@needs_bfloat16
def test_auto_of_a_model_without_finite_vectors_is_an_error_and_no_choice(
    photographs, tmp_path, capsys
):
    model = save_network(tmp_path / "model", awkward_models.not_a_number)
    assert run(photographs, tmp_path / "out", model, "--set", "model.precision=auto") == 2
    assert "gives NaN or Inf" in capsys.readouterr().err
    network = HubImageModel.load(describe_model(model), height=SIDE, width=SIDE)
    finding = check_precision(ModelConfig(handle=model, precision="auto"), network, SIDE, SIDE)
    assert finding.verdict == "failed"
    assert "gives NaN or Inf" in finding.seen


@needs_bfloat16
def test_the_doctor_says_how_far_a_precision_moves_the_vectors(model):
    network = HubImageModel.load(describe_model(model), height=SIDE, width=SIDE)
    config = ModelConfig(handle=model, precision="bfloat16")
    finding = check_precision(config, network, SIDE, SIDE)
    assert finding.verdict == "ok"
    assert finding.seen.startswith("bfloat16 moves vectors by ")


@needs_no_gpu
def test_a_missing_gpu_is_a_warning_or_an_error(photographs, model, tmp_path, capsys):
    assert run(photographs, tmp_path / "a", model, "--set", "model.gpu=required") == 2
    assert "model.gpu is required, and TensorFlow sees no GPU" in capsys.readouterr().err
    assert run(photographs, tmp_path / "b", model, "--set", "model.gpu=expected") == 0
    assert "WARNING: model.gpu is expected" in capsys.readouterr().err


@needs_bfloat16
def test_the_encoder_takes_a_precision(photographs, model):
    files = sorted(photographs.iterdir())
    full, short = (
        ImageEncoder(model, precision=precision).bulk_encode(files)
        for precision in ("float32", "bfloat16")
    )
    assert any((one != other).any() for one, other in zip(full, short, strict=True))


@needs_no_gpu
def test_the_encoder_refuses_a_precision_that_this_machine_has_not(model):
    with pytest.raises(RequestError, match="does not compute in float16"):
        ImageEncoder(model, precision="float16")


OWN = Provenance("handle", "model", "contract")


def sets_of(*precisions, model="model"):
    return [
        VectorSet(Provenance("handle", model, "contract", each), OutputLayout(8), (), {})
        for each in precisions
    ]


@pytest.mark.parametrize(
    ("earlier", "precision"),
    [
        ({}, None),
        ({"folder": sets_of("bfloat16", model="another")}, None),
        ({"folder": sets_of("bfloat16", "float32")}, "float32"),
        ({"folder": sets_of("bfloat16", "float32"), "table": sets_of("bfloat16")}, "bfloat16"),
        ({"folder": [], "table": sets_of("float16")}, "float16"),
        ({"folder": sets_of("of a later version")}, None),
    ],
)
def test_auto_takes_the_newest_precision_that_all_outputs_hold(earlier, precision):
    assert precision_of_outputs(OWN, earlier) == precision
