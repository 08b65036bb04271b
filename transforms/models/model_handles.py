"""The spellings of TF Hub and Kaggle handles, and which of them mean the same model."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from transforms.errors import UnusableModel

_TFHUB = re.compile(r"(?:https?://)?(?:www\.)?tfhub\.dev(?:/|$)", re.IGNORECASE)
_KAGGLE = re.compile(r"(?:https?://)?(?:www\.)?kaggle\.com/models(?:/|$)", re.IGNORECASE)

_KAGGLE_PATH = re.compile(
    r"(?P<owner>[\w.-]+)/(?P<model>[\w.-]+)/(?:frameworks/)?(?P<framework>[A-Za-z]+[12]?)"
    r"/(?:variations/)?(?P<variation>[\w.-]+)(?:/(?:versions/)?(?P<version>\d+))?"
)
_FRAMEWORKS = ("tensorflow1", "tensorflow2", "keras", "tflite", "tfjs", "pytorch", "jax", "flax")

#: As model pages and papers name them, without a host.
_BARE_TFHUB = re.compile(r"google/imagenet/\w+/(?:feature_vector|classification)(?:/\d+)?")

#: The same model at both places, as far as it is known: tfhub.dev's feature_vector/4 is
#: Kaggle's version 1, /5 is version 2. Never compared byte by byte, so it is only suggested.
_TFHUB_NAME = "google/imagenet/inception_resnet_v2"
_KAGGLE_NAME = "google/inception-resnet-v2/tensorFlow2"
_MIRRORS = {
    f"{_TFHUB_NAME}/{kind}/{tfhub}": f"{_KAGGLE_NAME}/{kind.replace('_', '-')}/{kaggle}"
    for kind in ("feature_vector", "classification")
    for tfhub, kaggle in ((4, 1), (5, 2))
}


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a model of TF Hub's protocol is, whichever way its handle was spelled."""

    url: str
    """Without ?tf-hub-format; the SHA-1 of it names its folder in the cache."""
    spellings: tuple[str, ...]
    """Other addresses of the very same model, under which the cache may hold it."""
    mirror: str | None = None
    """A handle that is said to lead to the same model at the other place."""
    kagglehub_handle: str | None = None
    """What `kagglehub.model_download` calls it, where it is on Kaggle."""


def hub_address(handle: str) -> HubAddress | None:
    """Return the address that a handle means; None where it is neither an address nor a name.

    These all name models: `https://tfhub.dev/PUBLISHER/.../VERSION`,
    `https://www.kaggle.com/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION` with or without
    the words `frameworks`, `variations` and `versions`, both with or without `https://`, a
    version, a slash at the end or a query; kagglehub's `OWNER/MODEL/FRAMEWORK/VARIATION/VERSION`;
    `google/imagenet/...` as tfhub.dev has it; and any other http:// or https:// address of the
    protocol (https://www.tensorflow.org/hub/hosting), which is left as it is.

    Raises:
        UnusableModel: the address is on tfhub.dev or Kaggle, and names no TensorFlow model.

    Example:
        >>> hub_address("tfhub.dev/google/imagenet/mobilenet_v2_050_128/feature_vector/5/").url
        'https://tfhub.dev/google/imagenet/mobilenet_v2_050_128/feature_vector/5'
    """
    handle = handle.strip()
    on_tfhub, on_kaggle = _TFHUB.match(handle), _KAGGLE.match(handle)
    if on_tfhub:
        return _tfhub_address(handle, _path(handle[on_tfhub.end() :]))
    if on_kaggle:
        path = _path(handle[on_kaggle.end() :])
        named = _KAGGLE_PATH.fullmatch(path)
        if not named:
            raise UnusableModel(
                f"{handle} is no page of a single model; add the framework, variation and version, "
                f"as in https://www.kaggle.com/models/{_KAGGLE_NAME}/feature-vector/2"
            )
        return _kaggle_address(handle, path, named)
    if handle.lower().startswith(("http://", "https://")):
        url = _without_format(handle)
        return HubAddress(url, () if url == handle else (handle,))
    path = _path(handle)
    if _BARE_TFHUB.fullmatch(path):
        return _tfhub_address(handle, path)
    named = _KAGGLE_PATH.fullmatch(path)
    if named and named["framework"].lower() in _FRAMEWORKS:
        return _kaggle_address(handle, path, named)
    return None


def _path(text: str) -> str:
    return re.split(r"[?#]", text, maxsplit=1)[0].strip("/")


def _without_format(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UnusableModel(f"{url} is no valid address: {error}") from error
    query = [pair for pair in parse_qsl(parts.query, True) if pair[0] != "tf-hub-format"]
    if len(query) == len(parse_qsl(parts.query, True)) and not parts.fragment:
        return url  # Signed addresses must keep every character.
    return urlunsplit(parts._replace(query=urlencode(query), fragment=""))


def _tfhub_address(handle: str, path: str) -> HubAddress:
    if path.count("/") < 1:
        raise UnusableModel(
            f"{handle} names no model; add its name and version, as in "
            f"https://tfhub.dev/{_TFHUB_NAME}/feature_vector/5"
        )
    url = f"https://tfhub.dev/{path}"
    return HubAddress(url, _others(url, handle, f"{url}/"), _MIRRORS.get(path))


def _kaggle_address(handle: str, path: str, named: "re.Match[str]") -> HubAddress:
    framework = named["framework"].lower()
    if framework not in ("tensorflow1", "tensorflow2"):
        raise UnusableModel(
            f"{handle} is a model for {named['framework']}; use one of its tensorFlow2 or "
            "tensorFlow1 variations"
        )
    owner, model, variation = named["owner"], named["model"], named["variation"]
    version = named["version"]
    name = f"{owner}/{model}/{framework.replace('tensorflow', 'tensorFlow')}/{variation}"
    if version:
        name = f"{name}/{version}"
    same = [
        f"https://www.kaggle.com/models/{owner}/{model}/{words[0]}{capitals}{framework[-1]}"
        f"/{words[1]}{variation}" + (f"/{words[2]}{version}" if version else "")
        for capitals in ("tensorFlow", "TensorFlow")
        for words in (("", "", ""), ("frameworks/", "variations/", "versions/"))
    ]
    url = f"https://www.kaggle.com/models/{path}"
    mirrors = {kaggle: f"https://tfhub.dev/{tfhub}" for tfhub, kaggle in _MIRRORS.items()}
    return HubAddress(url, _others(url, handle, *same), mirrors.get(name), name)


def _others(url: str, *spellings: str) -> tuple[str, ...]:
    """Return the other spellings that tensorflow_hub accepts, once each."""
    return tuple(
        dict.fromkeys(other for other in spellings if other != url and other.startswith("http"))
    )
