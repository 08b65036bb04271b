"""`HubImageModelHandler`: a hub image model behind Beam's RunInference."""

import logging
import platform
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from transforms.errors import BrokenModel
from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.networks.batch_isolation import Answer, IsolatingEmbedder
from transforms.networks.device import prepare_device, why_not
from transforms.networks.hub_model import HubImageModel, count_gpus, try_model
from transforms.records import GpuUse, ModelRequest, Pixels, Precision
from transforms.workers.worker_log import log_event


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """All that a worker needs to load the model that the job was planned with."""

    handle: str
    fingerprint: str
    """Of the model that the job was planned with; a worker that finds another one stops."""
    height: int
    width: int
    value_range: tuple[float, float]
    batch_size: int
    request: ModelRequest = ModelRequest()
    """What is wanted of the model; the same for the plan and for every worker."""
    precision: Precision = "float32"
    """Of the arithmetic; a worker that does not compute in it stops."""
    gpu: GpuUse = "optional"
    """What a worker without a GPU does: nothing, warn, or stop."""


class LazyEmbedder:
    """An embedder that is loaded with its first batch, so that a run without work never is.

    Thread-safe. All that it takes and gives can be pickled.
    """

    def __init__(self, load: Callable[[], IsolatingEmbedder]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._embedder: IsolatingEmbedder | None = None

    def embedder(self) -> IsolatingEmbedder:
        """Return the embedder, loaded by now; raises whatever loading it raises."""
        with self._lock:
            if self._embedder is None:
                self._embedder = self._load()
            return self._embedder

    def embed_images(self, images: Sequence[Pixels]) -> list[Answer]:
        """See `IsolatingEmbedder.embed_images`; raises also whatever loading it raises."""
        return self.embedder().embed_images(images)


class HubImageModelHandler(ModelHandler[Pixels, Answer, LazyEmbedder]):
    """Embeds batches of `uint8 [height, width, 3]`; scales them inside the graph.

    Answers each image with an `EmbeddedPixels` or an `ImageError`, so that one bad image costs
    one image. Key the images with `KeyedModelHandler`; the answers do not hold the pixels.

    Example:
        >>> handler = HubImageModelHandler(settings)  # doctest: +SKIP
        >>> vectors = pixels | RunInference(KeyedModelHandler(handler))  # doctest: +SKIP
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        share_between_processes: bool = False,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._share_between_processes = share_between_processes
        self._copies = copies

    def load_model(self) -> LazyEmbedder:
        """Return what loads the model, or takes the copy of this process, on the first batch.

        The first batch raises:
            UnusableModel: the handle leads to no image feature model.
            BrokenModel: it leads to another model than the job was planned with, or this machine
                has no required GPU or does not compute in the precision of the job.
        """
        if self._share_between_processes:
            # Several copies are wanted as such: each comes from a call of its own.
            return LazyEmbedder(partial(_load, self._settings))
        return LazyEmbedder(partial(load_once_per_process, self._settings, try_large_batch=False))

    def run_inference(
        self,
        batch: Sequence[Pixels],
        model: LazyEmbedder,
        inference_args: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Return one answer for each image, in order.

        A list and not a generator: a generator's errors surface outside Beam's accounting.
        """
        return model.embed_images(batch)

    def get_num_bytes(self, batch: Sequence[Pixels]) -> int:
        """Return the bytes of the pixels; Beam's default would pickle every batch to count."""
        return sum(pixels.nbytes for pixels in batch)

    def get_metrics_namespace(self) -> str:
        """Return the name under which RunInference's own metrics stand."""
        return "EmbedImages"

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Return one fixed batch size: the adaptive one grows until the device runs out."""
        return {
            "min_batch_size": self._settings.batch_size,
            "max_batch_size": self._settings.batch_size,
        }

    def share_model_across_processes(self) -> bool:
        """Whether one process of the worker holds the model for all of them."""
        return self._share_between_processes

    def model_copies(self) -> int:
        """Return how many copies a worker holds when the model is shared by processes."""
        return self._copies


_loading = threading.Lock()
_loaded: weakref.WeakValueDictionary[ModelSettings, IsolatingEmbedder] = (
    weakref.WeakValueDictionary()
)


def load_once_per_process(
    settings: ModelSettings, *, try_large_batch: bool = True
) -> IsolatingEmbedder:
    """Return the model, which stays loaded for as long as somebody in this process holds it.

    The trial before the job and the worker threads of a local run share one copy this way.

    Args:
        settings: of the job.
        try_large_batch: whether a model that has to be loaded is tried on a batch of the job's
            size as well, which takes seconds: once, before the job, is enough.

    Raises:
        UnusableModel: the handle leads to no image feature model.
        BrokenModel: it leads to another model than the job was planned with, or this machine has
            no required GPU or does not compute in the precision of the job.
    """
    with _loading:
        embedder = _loaded.get(settings)
        if embedder is None:
            embedder = _load(settings, try_large_batch=try_large_batch)
            _loaded[settings] = embedder
        return embedder


def _load(settings: ModelSettings, *, try_large_batch: bool = False) -> IsolatingEmbedder:
    started = time.monotonic()
    prepare_device(settings.gpu)
    reason = why_not(settings.precision)
    if reason is not None:
        raise BrokenModel(
            f"the job computes in {settings.precision}, and the worker {platform.node()} does not: "
            f"{reason}; use workers that do, or model.precision=float32"
        )
    description = describe_model(resolve_model(settings.handle), settings.request)
    if description.fingerprint != settings.fingerprint:
        raise BrokenModel(
            f"{settings.handle} has the fingerprint {description.fingerprint} on this worker, "
            f"but the job was planned with {settings.fingerprint}; stage one copy of the model "
            "where every worker reads it"
        )
    model = HubImageModel.load(
        description,
        height=settings.height,
        width=settings.width,
        value_range=settings.value_range,
        precision=settings.precision,
    )
    batch_size = settings.batch_size if try_large_batch else None
    embedder = IsolatingEmbedder(
        model.embed,
        embedding_width=try_model(model, settings.height, settings.width, batch_size),
        largest_batch=settings.batch_size,
    )
    log_event(
        logging.INFO,
        "model-loaded",
        fingerprint=description.fingerprint,
        seconds=round(time.monotonic() - started, 1),
        gpus=count_gpus(),
    )
    return embedder
