"""Handles of Keras networks: `keras:inception_resnet_v2?weights=/models/mine.keras`."""

from dataclasses import dataclass

from transforms.errors import UnusableModel

_SCHEME = "keras:"
_WEIGHTS = "?weights="

#: The weights that Keras publishes for its networks.
IMAGENET = "imagenet"


@dataclass(frozen=True, slots=True)
class KerasHandle:
    """Which network, and which weights."""

    network: str
    """Such as inception_resnet_v2."""
    weights: str | None
    """The path of a file, exactly as it is written, or "imagenet"."""

    def __str__(self) -> str:
        weights = "" if self.weights is None else f"{_WEIGHTS}{self.weights}"
        return f"{_SCHEME}{self.network}{weights}"


def is_keras_handle(handle: str) -> bool:
    """Whether a handle names a Keras network.

    Example:
        >>> is_keras_handle("keras:inception_resnet_v2")
        True
    """
    return handle.startswith(_SCHEME)


def parse_keras_handle(handle: str) -> KerasHandle:
    """Take a handle apart.

    Everything behind the first `?weights=` is the path: nothing in it is escaped.

    Raises:
        UnusableModel: there is something else behind the `?`.

    Example:
        >>> parse_keras_handle("keras:inception_resnet_v2?weights=a b.h5").weights
        'a b.h5'
    """
    network, given, weights = handle.removeprefix(_SCHEME).partition(_WEIGHTS)
    if "?" in network or (given and not weights):
        raise UnusableModel(
            f"the model {handle} cannot be read; write {_SCHEME}NETWORK{_WEIGHTS}FILE"
        )
    return KerasHandle(network, weights or None)
