"""`stage-model` from its arguments to a model that `run` embeds with."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from http_server import running_server
from hub_modules import save_hub_module
from hub_networks import TinyNetwork
from sample_images import jpeg_bytes, png_bytes
from storage_emulator import storage_emulator, upload
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.models.model_staging import files_below
from transforms.records import ModelRequest
from transforms.search.read_embeddings import read_embeddings

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))


def stage(*arguments: object) -> int:
    return main(["stage-model", *map(str, arguments)])


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return facts


def vectors(model: str | Path, photographs: Path, output: Path, *flags: str) -> Any:
    arguments = ["--input", photographs, "--output", output, "--model", model, *flags]
    assert main(["run", *map(str, arguments)]) == 0
    table = read_embeddings(str(output))
    order = np.argsort(table.uris)
    return table.vectors[order]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg_bytes(seed=1))
    (folder / "b.png").write_bytes(png_bytes(seed=2))
    return folder


def test_a_staged_model_has_the_files_the_fingerprint_and_a_description(
    tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    assert stage(tiny, tmp_path / "staged") == 0
    original, staged = describe_model(tiny), describe_model(str(tmp_path / "staged"))
    assert staged.fingerprint == original.fingerprint
    files = files_below(str(tmp_path / "staged"))
    facts = json.loads(files.pop("model.json").read_text())
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in files_below(tiny).items()
    }
    assert facts.pop("files") == sorted([*files, "model.json"])
    assert facts.pop("staged_at").endswith("+00:00")
    assert set(facts.pop("versions")) == {"embed-images", "keras", "tensorflow", "tensorflow-hub"}
    assert facts == {
        "handle": tiny,
        "fingerprint": original.fingerprint,
        "input_height": 32,
        "input_width": 32,
        "embedding_width": 8,
        "outputs": {"embedding": 8},
        "kind": None,
        "entry_point": "__call__",
        "signature": None,
        "output": None,
        "untrained": False,
    }
    table = capsys.readouterr().out
    for told in (tiny, original.fingerprint, "32 x 32", "embedding of 8 values", "MB in"):
        assert told in table


def test_run_embeds_the_same_with_the_staged_model(
    tiny: str, tmp_path: Path, photographs: Path
) -> None:
    staged = tmp_path / "staged"
    assert stage(tiny, staged) == 0
    # Whatever the job needs is in the staged folder.
    original = shutil.copytree(tiny, tmp_path / "original")
    own = vectors(original, photographs, tmp_path / "own")
    np.testing.assert_array_equal(vectors(staged, photographs, tmp_path / "out"), own)


def test_run_embeds_with_a_model_that_was_staged_on_gs(
    tiny: str, tmp_path: Path, photographs: Path
) -> None:
    own = vectors(tiny, photographs, tmp_path / "own")
    with storage_emulator() as bucket:
        assert stage(tiny, f"{bucket}/models/m", "--serving") == 0
        np.testing.assert_array_equal(
            vectors(f"{bucket}/models/m", photographs, tmp_path / "out"), own
        )
        # What is for other engines does not travel to the workers.
        copied = files_below(resolve_model(f"{bucket}/models/m"))
        assert {name.partition("/")[0] for name in copied} >= {"model.json", "saved_model.pb"}
        assert not [name for name in copied if name.startswith("serving")]
        assert stage(f"{bucket}/models/m", tmp_path / "back") == 0
    assert facts_of(tmp_path / "back")["fingerprint"] == describe_model(tiny).fingerprint


def test_a_model_of_any_size_is_staged_with_the_size_that_it_is_meant_for(
    tmp_path: Path, photographs: Path, capsys: Captured
) -> None:
    model = save_tiny_model(tmp_path / "any", image_height=None, image_width=None)
    assert stage(model, tmp_path / "staged") == 2
    assert "takes images of any size and names none" in capsys.readouterr().err
    assert stage(model, tmp_path / "staged", "--set", "preprocess.size=[40,48]") == 0
    description = describe_model(str(tmp_path / "staged"))
    assert (description.input_height, description.input_width) == (40, 48)
    assert not description.fixed_size
    own = vectors(model, photographs, tmp_path / "own", "--set", "preprocess.size=[40,48]")
    staged = vectors(tmp_path / "staged", photographs, tmp_path / "out")
    np.testing.assert_array_equal(staged, own)


def test_what_was_named_while_staging_needs_not_be_named_again(tmp_path: Path) -> None:
    size = (40, 40)
    network = TinyNetwork()
    model = save_hub_module(tmp_path / "m", "classification/1", network, size=size)
    named = ModelRequest(output="module/TinyNet/SpatialSqueeze", signature="default")
    asked = [f"--set=model.output={named.output}", f"--set=model.signature={named.signature}"]
    assert stage(model, tmp_path / "staged", *asked) == 0
    assert describe_model(str(tmp_path / "staged")) == describe_model(
        str(tmp_path / "staged"), named
    )
    fingerprint = describe_model(model, named).fingerprint
    assert describe_model(str(tmp_path / "staged")).fingerprint == fingerprint
    assert fingerprint != describe_model(model).fingerprint
    # Another output may still be asked for.
    logits = ModelRequest(wanted=("logits",))
    assert (
        describe_model(str(tmp_path / "staged"), logits).fingerprint
        == describe_model(model, logits).fingerprint
    )


def test_the_outputs_of_a_classifier_are_staged_with_their_widths(tmp_path: Path) -> None:
    model = save_hub_module(tmp_path / "m", "classification/3", TinyNetwork(), size=(40, 40))
    outputs = "--set=model.outputs=[top_classes,embedding]"
    assert stage(model, tmp_path / "staged", outputs, "--serving") == 0
    assert facts_of(tmp_path / "staged")["outputs"] == {"embedding": 8, "logits": 1001}
    served = tf.saved_model.load(str(tmp_path / "staged" / "serving")).signatures["from_bytes"]
    result = served(image_bytes=tf.constant([jpeg_bytes()]))
    assert {name: each.shape[1] for name, each in result.items()} == {
        "embedding": 8,
        "logits": 1001,
    }


def test_untrained_weights_stay_marked(tiny: str, tmp_path: Path, capsys: Captured) -> None:
    model = shutil.copytree(tiny, tmp_path / "m")
    (model / "model.json").write_text('{"untrained": true, "kind": "feature_vector"}')
    assert stage(model, tmp_path / "staged") == 0
    assert "untrained" in capsys.readouterr().out
    assert describe_model(str(tmp_path / "staged")).untrained
    assert facts_of(tmp_path / "staged")["kind"] == "feature_vector"


def test_other_weights_in_a_staged_folder_are_noticed(tiny: str, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    assert stage(tiny, staged) == 0
    other = save_tiny_model(tmp_path / "other", seed=1)
    shutil.copytree(Path(other) / "variables", staged / "variables", dirs_exist_ok=True)
    expected = f"its fingerprint is {describe_model(other).fingerprint}, and model.json says"
    with pytest.raises(UnusableModel, match=f"not the model that was staged there: {expected}"):
        describe_model(str(staged))


@pytest.mark.parametrize("name", ["signature", "output"])
def test_a_wrong_name_in_model_json_is_refused(tiny: str, tmp_path: Path, name: str) -> None:
    model = shutil.copytree(tiny, tmp_path / "m")
    (model / "model.json").write_text(json.dumps({name: 3}))
    with pytest.raises(UnusableModel, match=rf"model\.json has {name} 3; use text"):
        describe_model(str(model))


def test_an_existing_model_is_replaced_only_when_asked(
    tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    staged = tmp_path / "staged"
    assert stage(tiny, staged, "--serving") == 0
    capsys.readouterr()
    assert stage(tiny, staged) == 2
    assert f"{staged} already holds a model; use --overwrite" in capsys.readouterr().err
    assert (staged / "serving").exists()
    assert stage(tiny, staged, "--overwrite") == 0
    assert not (staged / "serving").exists()
    assert describe_model(str(staged)).fingerprint == describe_model(tiny).fingerprint


def test_a_model_is_not_staged_onto_itself(tiny: str, tmp_path: Path, capsys: Captured) -> None:
    staged = tmp_path / "staged"
    assert stage(tiny, staged) == 0
    before = facts_of(staged)
    (tmp_path / "link").symlink_to(staged)
    for name in (staged, tmp_path / "link", f"file://{staged}"):
        assert stage(staged, name, "--overwrite") == 2
        assert f"{name} is the model itself; give another folder" in capsys.readouterr().err
    assert facts_of(staged) == before


@pytest.mark.parametrize("name", ["thesis.txt", "variables/thesis.txt", "serving/app.py"])
def test_a_file_that_staging_did_not_write_is_kept(
    tiny: str, tmp_path: Path, name: str, capsys: Captured
) -> None:
    staged = tmp_path / "staged"
    assert stage(tiny, staged, "--serving") == 0
    (staged / name).write_text("years of work")
    assert stage(tiny, staged, "--overwrite") == 2
    assert f"{staged} holds {name}, which is no part" in capsys.readouterr().err
    assert (staged / name).read_text() == "years of work"


@pytest.mark.parametrize(
    ("destination", "told"), [("gs://", "gs:// names no bucket"), ("", "DEST is empty")]
)
def test_a_destination_without_a_name_is_refused(
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    destination: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stage(tiny, destination, "--overwrite") == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_fails_its_trial_is_not_staged(tmp_path: Path, capsys: Captured) -> None:
    model = save_tiny_model(tmp_path / "m", fault="nan_always")
    assert stage(model, tmp_path / "staged") == 2
    assert "gives NaN or Inf" in capsys.readouterr().err
    assert not (tmp_path / "staged").exists()


def test_a_place_that_cannot_be_written_ends_with_status_1(tiny: str, capsys: Captured) -> None:
    assert stage(tiny, "/proc/no-place/for-a-model") == 1
    assert "error: the model cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["fit=pad", "kernel=bicubic", "orientation=ignore"])
def test_what_the_graph_cannot_follow_is_refused(
    tiny: str, tmp_path: Path, setting: str, capsys: Captured
) -> None:
    asked = ["--serving", "--set", f"preprocess.{setting}"]
    assert stage(tiny, tmp_path / "staged", *asked) == 2
    key = setting.partition("=")[0]
    assert f"preprocess.{key} cannot be exported" in capsys.readouterr().err


def test_the_serving_signatures_give_the_vectors_of_the_job(
    tiny: str, tmp_path: Path, photographs: Path
) -> None:
    assert stage(tiny, tmp_path / "staged", "--serving") == 0
    own = vectors(tmp_path / "staged", photographs, tmp_path / "out")
    served = tf.saved_model.load(str(tmp_path / "staged" / "serving")).signatures["from_bytes"]
    contents = [path.read_bytes() for path in sorted(photographs.iterdir())]
    result = served(image_bytes=tf.constant(contents))["embedding"].numpy()
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(result, axis=1)
    assert (1 - (own * result).sum(axis=1) / lengths).max() < 5e-4


def test_a_model_from_gs_is_staged_locally(tiny: str, tmp_path: Path) -> None:
    with storage_emulator() as bucket:
        upload(tiny, f"{bucket}/m")
        assert stage(f"{bucket}/m", tmp_path / "staged") == 0
    assert facts_of(tmp_path / "staged")["handle"] == "gs://models/m"


def test_the_signature_of_a_handle_stands_neither_in_the_copy_nor_in_what_is_said(
    tiny: str, tmp_path: Path, capsys: Captured
) -> None:
    archive = shutil.make_archive(str(tmp_path / "model"), "gztar", tiny)
    with running_server() as server:
        server.answers["/model.tar.gz"] = lambda request: request.reply(Path(archive).read_bytes())
        handle = server.url("/model.tar.gz?X-Goog-Signature=hunter2")
        assert stage(handle, tmp_path / "staged") == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "hunter2" not in (tmp_path / "staged" / "model.json").read_text()
