"""In which precision a run computes: as asked for, as its output holds, or as a trial shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import ModelConfig
from pipeline.options import workers_are_here
from transforms.errors import BatchRejected, BatchTooLarge, RequestError
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.incremental_runs import VectorSet
from transforms.models.model_description import ModelDescription
from transforms.networks.device import device_kind, missing_gpu, short_precisions, why_not
from transforms.networks.hub_model import HubImageModel
from transforms.networks.precision_trial import (
    LARGEST_DISTANCE,
    LARGEST_MEAN_DISTANCE,
    TRIAL_BATCH,
    fastest_faithful,
    try_precisions,
)
from transforms.networks.tensorflow_errors import one_line
from transforms.networks.trial_images import photograph_like_images
from transforms.records import GpuUse, Precision, Preprocessing


def settle_precision(
    model: ModelConfig,
    provenance: Provenance,
    earlier: Mapping[str, Sequence[VectorSet]],
    try_here: Callable[[], Precision],
) -> Precision:
    """Return the precision of a run.

    Args:
        model: the configuration.
        provenance: of the run, whatever precision it names.
        earlier: what each output holds already; with `auto`, the precision that it holds of this
            model and preprocessing is taken, so that nothing is loaded to learn it.
        try_here: asked with `auto` where no output holds any.

    Raises:
        RequestError: see `precision_by_trial`.
    """
    if model.precision != "auto":
        return model.precision
    return precision_of_outputs(provenance, earlier) or try_here()


def precision_of_outputs(
    provenance: Provenance, earlier: Mapping[str, Sequence[VectorSet]]
) -> Precision | None:
    """Return the precision that the outputs hold of a model and preprocessing, or None.

    That of the newest vectors, among those in all outputs if there are such.
    """
    wanted = (provenance.model_fingerprint, provenance.preprocess_fingerprint)
    held: list[list[Precision]] = [
        [
            precision
            for each in reversed(sets)
            for precision in get_args(Precision)
            if precision == each.provenance.precision
            and (each.provenance.model_fingerprint, each.provenance.preprocess_fingerprint)
            == wanted
        ]
        for sets in earlier.values()
    ]
    found = [precision for output in held for precision in output]
    in_all = (each for each in found if all(each in output for output in held))
    return next(in_all, next(iter(found), None))


def precision_by_trial(
    batch_size: int,
    gpu: GpuUse,
    description: ModelDescription,
    preprocessing: Preprocessing,
    options: PipelineOptions,
    say: Callable[[str], None],
) -> Precision:
    """Return the fastest precision that this machine has and that keeps the vectors.

    Raises:
        RequestError: the workers have a GPU that this machine lacks, or the model does not run, or
            gives vectors that are not finite.
    """
    import tensorflow as tf

    if device_kind() == "cpu" and gpu != "optional" and not workers_are_here(options):
        raise RequestError(
            f"model.precision is auto and model.gpu is {gpu}, but this machine has no GPU to "
            "try it on: name a precision, such as float16, or start the job on a machine like the "
            "workers"
        )
    candidates = [each for each in short_precisions() if why_not(each) is None]
    if not candidates:
        say(f"model.precision=auto is float32: {why_not(short_precisions()[0])}")
        return "float32"
    say(f"trying the model in float32 and {' and '.join(candidates)}")
    height, width = preprocessing.height, preprocessing.width
    network = HubImageModel.load(
        description, height=height, width=width, value_range=preprocessing.value_range
    )
    images = photograph_like_images(height, width, min(batch_size, TRIAL_BATCH))
    try:
        full, *trials = try_precisions(network, candidates, images)
    except (BatchRejected, BatchTooLarge, tf.errors.OpError) as error:
        raise RequestError(
            f"{description.path} fails on generated images: {one_line(error)}"
        ) from error
    precision = fastest_faithful([full, *trials])
    found = "; ".join(each.in_words(full) for each in trials)
    say(
        f"model.precision=auto is {precision}: {found} (allowed: {LARGEST_MEAN_DISTANCE:.0e}, and "
        f"{LARGEST_DISTANCE:.0e} at most)"
    )
    if not workers_are_here(options):
        say("workers of another kind than this machine may be faster in another precision")
    return precision


def check_workers_here(
    gpu: GpuUse, precision: Precision, options: PipelineOptions, say: Callable[[str], None]
) -> str | None:
    """Refuse or warn of what workers in this process cannot do.

    Returns:
        Why this machine does not compute in the precision, where only workers elsewhere do; None
        where it does.

    Raises:
        RequestError: the workers are here, and do not compute in the precision, or lack a GPU.
    """
    here = workers_are_here(options)
    missing = missing_gpu(gpu) if here and gpu != "optional" else None
    if missing and gpu == "required":
        raise RequestError(
            f"{missing}; `embed-images doctor` says what is missing, and with --set "
            "model.gpu=optional the CPU does the work"
        )
    if missing:
        say(f"WARNING: {missing}: the CPU does the work, many times slower")
    reason = why_not(precision)
    if reason and here:
        raise RequestError(
            f"this machine does not compute in {precision}: {reason}; use a machine that does, or "
            "model.precision=float32"
        )
    return reason
