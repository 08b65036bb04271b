"""The handle of a job, complete for workers that run elsewhere."""

from pathlib import Path

import pytest

from pipeline.config import InputConfig, JobConfig, ModelConfig, OutputConfig
from pipeline.model_handle import complete_handle
from pipeline.run import with_absolute_paths
from transforms.errors import UnusableModel

KERAS = "keras:inception_resnet_v2"


@pytest.mark.parametrize(
    ("handle", "weights", "complete"),
    [
        (KERAS, "mine.h5", f"{KERAS}?weights={{cwd}}/mine.h5"),
        (KERAS, "/models/mine.keras", f"{KERAS}?weights=/models/mine.keras"),
        (KERAS, "imagenet", f"{KERAS}?weights=imagenet"),
        (KERAS, "gs://bucket/mine.h5", f"{KERAS}?weights=gs://bucket/mine.h5"),
        (f"{KERAS}?weights=a b?.h5", None, f"{KERAS}?weights={{cwd}}/a b?.h5"),
        (KERAS, None, KERAS),
        ("model", None, "{cwd}/model"),
        ("no/such/model", None, "no/such/model"),
        ("untrained:inception_resnet_v2", None, "untrained:inception_resnet_v2"),
    ],
)
def test_local_paths_become_absolute_and_weights_part_of_the_handle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    handle: str,
    weights: str | None,
    complete: str,
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    found = complete_handle(handle, weights)
    assert found == complete.format(cwd=tmp_path)
    assert complete_handle(found) == found


@pytest.mark.parametrize(
    ("handle", "told"),
    [
        (f"{KERAS}?weights=a.h5", "names its weights, and model.weights is b.h5; name them once"),
        ("models/mine", "model.weights is b.h5, but the model models/mine has its own"),
    ],
)
def test_weights_that_belong_nowhere_are_refused(handle: str, told: str) -> None:
    with pytest.raises(UnusableModel, match=told):
        complete_handle(handle, "b.h5")


def test_a_job_is_planned_with_the_weights_in_its_handle() -> None:
    config = JobConfig(
        input=InputConfig(patterns=("photos",)),
        output=OutputConfig(path="out"),
        model=ModelConfig(handle=KERAS, weights="/models/mine.h5"),
    )
    model = with_absolute_paths(config).model
    assert (model.handle, model.weights) == (f"{KERAS}?weights=/models/mine.h5", None)
