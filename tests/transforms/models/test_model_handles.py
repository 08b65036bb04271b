"""Which model each spelling of a handle means."""

import pytest

from transforms.errors import UnusableModel
from transforms.models.model_handles import hub_address

TFHUB = "https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/5"
KAGGLE = "https://www.kaggle.com/models/google/inception-resnet-v2"


@pytest.mark.parametrize(
    ("handle", "url"),
    [
        (TFHUB, TFHUB),
        (f"{TFHUB}/", TFHUB),
        (f" {TFHUB}\n", TFHUB),
        (f"{TFHUB}?tf-hub-format=compressed", TFHUB),
        (f"{TFHUB}/?tf-hub-format=compressed#x", TFHUB),
        (TFHUB.replace("https", "http"), TFHUB),
        (TFHUB.replace("https://", ""), TFHUB),
        (TFHUB.replace("https://", "www."), TFHUB),
        (TFHUB.replace("https://tfhub", "HTTPS://TFHub"), TFHUB),
        (TFHUB.replace("https://tfhub.dev/", ""), TFHUB),
        (TFHUB.removesuffix("/5"), TFHUB.removesuffix("/5")),
        ("google/imagenet/resnet_v2_50/classification", None),
        (f"{KAGGLE}/tensorFlow2/feature-vector/2", f"{KAGGLE}/tensorFlow2/feature-vector/2"),
        (
            f"{KAGGLE}/TensorFlow2/feature-vector/2/?tfhub-redirect=true",
            f"{KAGGLE}/TensorFlow2/feature-vector/2",
        ),
        (
            f"{KAGGLE}/frameworks/tensorFlow2/variations/feature-vector/versions/2",
            f"{KAGGLE}/frameworks/tensorFlow2/variations/feature-vector/versions/2",
        ),
        (
            "kaggle.com/models/google/inception-resnet-v2/tensorFlow2/feature-vector",
            f"{KAGGLE}/tensorFlow2/feature-vector",
        ),
        (
            "google/inception-resnet-v2/tensorFlow2/feature-vector/2",
            f"{KAGGLE}/tensorFlow2/feature-vector/2",
        ),
        ("http://127.0.0.1:80/a/4/?b=c%2Fd", "http://127.0.0.1:80/a/4/?b=c%2Fd"),
        ("http://host/a/4?tf-hub-format=compressed&b=c", "http://host/a/4?b=c"),
    ],
)
def test_every_spelling_leads_to_one_address(handle: str, url: str | None) -> None:
    address = hub_address(handle)
    assert address is not None
    assert address.url == (url or f"https://tfhub.dev/{handle}")


def test_the_spellings_of_a_kaggle_model_know_each_other() -> None:
    short = f"{KAGGLE}/tensorFlow2/feature-vector/2"
    long = f"{KAGGLE}/frameworks/TensorFlow2/variations/feature-vector/versions/2"
    for handle, other in ((short, long), (long, short)):
        address = hub_address(handle)
        assert address is not None
        assert other in address.spellings
        assert address.kagglehub_handle == "google/inception-resnet-v2/tensorFlow2/feature-vector/2"


def test_the_handle_itself_is_looked_for_in_the_cache() -> None:
    for handle in (f"{TFHUB}/", f"{TFHUB}?tf-hub-format=compressed"):
        address = hub_address(handle)
        assert address is not None
        assert handle in address.spellings


@pytest.mark.parametrize("kind", ["feature_vector", "classification"])
@pytest.mark.parametrize(("tfhub", "kaggle"), [(4, 1), (5, 2)])
def test_mirrors_lead_to_each_other(kind: str, tfhub: int, kaggle: int) -> None:
    there = hub_address(f"https://tfhub.dev/google/imagenet/inception_resnet_v2/{kind}/{tfhub}")
    assert there is not None
    assert there.mirror is not None
    assert there.mirror.endswith(f"/{kind.replace('_', '-')}/{kaggle}")
    back = hub_address(there.mirror)
    assert back is not None
    assert back.mirror == there.url


def test_a_model_without_a_known_mirror_has_none() -> None:
    for handle in (TFHUB.replace("/5", "/3"), TFHUB.removesuffix("/5"), "http://host/a/5"):
        address = hub_address(handle)
        assert address is not None
        assert address.mirror is None


@pytest.mark.parametrize(
    ("handle", "told"),
    [
        ("https://tfhub.dev", "names no model"),
        ("https://tfhub.dev/google", "add its name and version"),
        (KAGGLE, "add the framework, variation and version"),
        (f"{KAGGLE}/tensorFlow2/feature-vector/2/code", "no page of a single model"),
        ("https://www.kaggle.com/models", "no page of a single model"),
        ("google/movenet/tfLite/lightning/1", "is a model for tfLite; use one of its tensorFlow2"),
        ("http://[host/a", "is no valid address"),
    ],
)
def test_what_names_no_tensorflow_model_is_refused(handle: str, told: str) -> None:
    with pytest.raises(UnusableModel, match=told):
        hub_address(handle)


@pytest.mark.parametrize("handle", ["", "model", "models/4", "./a/b/c/d", "a/b/mobilenet/d/1"])
def test_a_path_is_no_address(handle: str) -> None:
    assert hub_address(handle) is None
