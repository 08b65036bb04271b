"""Checks of a loaded model by what it does: run it on images, and look at its vectors.

No check knows what the right vectors are, but for the golden ones of a model that is built from
a seed. They find what makes vectors useless whatever the images: NaN, chance, a batch that shows
through, one vector for all, and a scale of the input that is far off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.networks.golden_vectors import GoldenVectors, generated_images
from transforms.networks.hub_model import (
    BATCH_TOLERANCE,
    HubImageModel,
    try_outputs,
)
from transforms.networks.vector_distance import relative_distance
from transforms.records import Pixels, Vector

Verdict = Literal["ok", "suspect", "failed", "skipped"]

#: What 0 and 255 become at the input of the network, in the three ways that are in use.
USUAL_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))

#: Below this part of the spread at another range, the spread at the right one is suspect; see
#: `check_scaling`.
SUSPECT_SPREAD = 0.1

#: Cosine distance to a golden vector. float32 leaves less than 1e-9 between machines, bfloat16
#: arithmetic about 1e-5 (Inception-ResNet-v2); another resize or scale leaves more than 1e-3.
GOLDEN_TOLERANCE = 5e-5

#: Vectors of different images that lie no further apart, in parts of their length, are one
#: vector. Rounding moves a vector by up to 3e-6 (see BATCH_TOLERANCE), an input 255 times too
#: small still leaves 1e-2 between photographs (MobileNet, Inception-ResNet-v2).
CONSTANT_TOLERANCE = 1e-4

_RUNS = 3
_LARGE_BATCH = 32


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw: one row of the doctor's table."""

    check: str
    verdict: Verdict
    """suspect: a sign of something wrong, and no proof; skipped: it could not be judged."""
    seen: str
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def check_model(
    model: HubImageModel, images: Pixels, *, golden: GoldenVectors | None = None
) -> list[Finding]:
    """Run every check of a model, in an order in which each builds on the former ones.

    Args:
        model: loaded for images of this size and with the value range that a job would use.
        images: `uint8 [n, height, width, 3]`, at least four, clearly different.
        golden: of this model, where they are known; see `golden_vectors`.

    Example:
        >>> images = generated_images(224, 224)
        >>> [finding.verdict for finding in check_model(model, images)] # doctest: +SKIP
        ['ok', 'ok', 'ok', 'ok', 'ok', 'skipped', 'ok']
    """
    known: Callable[[], Finding] = (
        (lambda: check_golden(model, golden))
        if golden
        else (lambda: Finding("golden vectors", "skipped", "none are known for this model"))
    )
    steps: list[tuple[str, Callable[[], Finding], bool]] = [
        # The third says whether what comes after makes sense without it.
        ("runs", lambda: check_run(model, images), True),
        ("finite", lambda: check_finite(model, images), True),
        ("deterministic", lambda: check_deterministic(model, images), True),
        ("batch", lambda: check_batch(model, images), False),
        ("different images", lambda: check_variety(model, images), False),
        ("golden vectors", known, False),
        ("input scaling", lambda: check_scaling(model, images), False),
    ]
    findings: list[Finding] = []
    broken = None
    for name, check, needed in steps:
        if broken:
            findings.append(Finding(name, "skipped", f"the check {broken!r} failed"))
            continue
        finding = run_check(name, check, f"the {len(images)} images of this check")
        findings.append(finding)
        if needed and finding.verdict == "failed":
            broken = name
    return findings


def run_check(
    name: str, check: Callable[[], Finding], load: str = "the images of this check"
) -> Finding:
    """Run one check; whatever it raises is a failed check, so that the others still run.

    Args:
        name: of the check.
        check: what gives its finding.
        load: what there is no memory for, where the check says that there is none.

    Example:
        >>> run_check("ratio", lambda: Finding("ratio", "ok", str(1 / 0)))
        Finding(check='ratio', verdict='failed', seen='ZeroDivisionError: division by zero', \
advice='see --verbose for more')
    """
    try:
        return check()
    except BatchTooLarge as error:
        seen = f"no memory for {load}: {error}"
        advice = "take a device with more memory, or a smaller preprocess.size"
    except Exception as error:  # Whatever it is, the rest of the table is wanted.
        seen = f"{type(error).__name__}: {' '.join(str(error).split())}"
        advice = "see --verbose for more"
    return Finding(name, "failed", seen, advice)


def check_run(model: HubImageModel, images: Pixels) -> Finding:
    """Whether two images give two vectors."""
    try:
        vectors = model.embed(images[:2])
    except _run_errors() as error:
        why = _trial_problem(model, images) or f"{type(error).__name__}: {error}"
    else:
        if vectors.ndim == 2 and len(vectors) == 2:
            height, width = images.shape[1:3]
            seen = f"images of {height} x {width} give vectors of {vectors.shape[1]} values"
            return Finding("runs", "ok", seen)
        why = _trial_problem(model, images) or f"two images give an array {list(vectors.shape)}"
    return Finding("runs", "failed", why, "take another model, signature or preprocess.size")


def check_finite(model: HubImageModel, images: Pixels) -> Finding:
    """Whether there is NaN or Inf in any vector."""
    vectors = model.embed(images)
    wrong = int(vectors.size - np.isfinite(vectors).sum())
    if not wrong:
        return Finding("finite", "ok", f"no NaN or Inf in {vectors.size} values")
    return Finding(
        "finite",
        "failed",
        _trial_problem(model, images) or f"NaN or Inf in {wrong} of {vectors.size} values",
        "fetch the model again; if it stays so, its weights are broken",
    )


def check_deterministic(model: HubImageModel, images: Pixels) -> Finding:
    """Whether the same batch gives the same vectors in several runs."""
    few = images[:4]
    first = model.embed(few)
    moved = max(relative_distance(first, model.embed(few)) for _ in range(_RUNS - 1))
    if moved <= BATCH_TOLERANCE:
        return Finding("deterministic", "ok", f"{_same(moved)} in {_RUNS} runs of one batch")
    return Finding(
        "deterministic",
        "failed",
        f"one image gets vectors {moved:.1%} of their length apart in {_RUNS} runs of one batch",
        "a random operation such as dropout is at work; export the model for inference",
    )


def check_batch(model: HubImageModel, images: Pixels) -> Finding:
    """Whether an image gets the same vector alone as in a batch of 32."""
    count = len(images)
    batch = np.stack(
        [np.roll(images[i % count], 7 * (i // count), axis=1) for i in range(_LARGE_BATCH)]
    )
    # Dark, to show a model that scales a batch by its brightest image.
    batch[_LARGE_BATCH // 3] //= 3
    try:
        together = model.embed(batch)
    except BatchTooLarge as error:
        seen = f"no memory for a batch of {_LARGE_BATCH}: {error}"
        return Finding("batch", "skipped", seen, "use a smaller model.batch_size")
    places = [0, _LARGE_BATCH // 3, _LARGE_BATCH - 1]
    moved = max(
        relative_distance(together[[place]], model.embed(batch[[place]])) for place in places
    )
    if moved <= BATCH_TOLERANCE:
        seen = f"{_same(moved)} alone and in a batch of {_LARGE_BATCH}"
        return Finding("batch", "ok", seen)
    return Finding(
        "batch",
        "failed",
        f"the vector of an image alone is {moved:.1%} of its length away from that in a batch of "
        f"{_LARGE_BATCH}",
        "batch statistics are at work, as in training; export the model for inference",
    )


def check_variety(model: HubImageModel, images: Pixels) -> Finding:
    """Whether different images get different vectors."""
    vectors = model.embed(images)
    apart = max(relative_distance(vectors[:1], vector[None]) for vector in vectors[1:])
    if apart > CONSTANT_TOLERANCE:
        seen = f"the vectors of {len(images)} images lie up to {apart:.2g} of their length apart"
        return Finding("different images", "ok", seen)
    return Finding(
        "different images",
        "failed",
        f"{len(images)} different images get one vector, but for {apart:.1e} of its length",
        "see 'input scaling'; if that shows nothing, the model or its output is the wrong one",
    )


def check_scaling(model: HubImageModel, images: Pixels) -> Finding:
    """Whether the values that the network gets look as if they were on the wrong scale.

    The spread of vectors is their mean cosine distance, over all pairs of images. It is compared
    between the value range of the job and the usual others. A network that gets values 255 times
    too small sees next to nothing but black, and all vectors are nearly one; so the verdict is
    "suspect" where the spread is less than `SUSPECT_SPREAD` of that at another range. It is never
    a proof, and neither is its silence.

    Measured on eight photographs of scikit-image (and on `generated_images`), 2 CPU cores:

    | network                           | [0, 1]          | [0, 255]     | [-1, 1]         |
    | MobileNet v1, trained             | 0.66 (0.20)     | 0.32 (0.12)  | 0.64 (0.21)     |
    | ... behind a division by 255      | 0.0025 (0.0002) | 0.66 (0.20)  | 0.036 (0.0008)  |
    | ... if it were meant for [-1, 1]  | 0.66 (0.11)     | 0.34 (0.12)  | 0.66 (0.20)     |
    | Inception-ResNet-v2, untrained    | 0.34 (0.31)     | 0.013 (0.02) | 0.20 (0.16)     |
    | ... behind a division by 255      | 9e-5 (2e-4)     | 0.34 (0.31)  | 3e-4 (8e-4)     |
    | ... if it were meant for [-1, 1]  | 0.23 (0.20)     | 0.013 (0.02) | 0.34 (0.31)     |

    At the range that a network is meant for, the spread is the largest or close to it; behind the
    division it is at most 0.004 of the largest. [0, 1] and [-1, 1] cannot be told apart in this
    way, and a network that saturates gracefully, as this MobileNet does, does not show that its
    input is 255 times too large.
    """
    low, high = model.value_range
    spreads = {
        each: _spread(model.for_value_range(*each).embed(images))
        for each in dict.fromkeys([(low, high), *USUAL_RANGES])
    }
    measured = ", ".join(f"{spread:.2g} at {_shown(each)}" for each, spread in spreads.items())
    seen = f"mean cosine distance of {len(images)} images: {measured}"
    own, best = spreads[low, high], max(spreads, key=lambda each: spreads[each])
    if spreads[best] < CONSTANT_TOLERANCE**2:
        return Finding("input scaling", "skipped", f"all vectors are one at any range; {seen}")
    if own >= SUSPECT_SPREAD * spreads[best]:
        return Finding("input scaling", "ok", f"no sign of a wrong scale; {seen}")
    return Finding(
        "input scaling",
        "suspect",
        f"the vectors hardly differ at {_shown((low, high))}; {seen}",
        f"the network may scale its input itself: read its documentation, and try "
        f"--set preprocess.value_range={_shown(best).replace(' ', '')}",
    )


def check_golden(model: HubImageModel, golden: GoldenVectors) -> Finding:
    """Whether a model of known weights gives the vectors that it gave where it was made."""
    images = generated_images(golden.height, golden.width)[: len(golden.vectors)]
    vectors = model.for_size(golden.height, golden.width).for_value_range(0.0, 1.0).embed(images)
    if vectors.shape != golden.vectors.shape:
        seen = (
            f"vectors of {vectors.shape[1]} values; the golden ones have {golden.vectors.shape[1]}"
        )
        return Finding("golden vectors", "failed", seen, "name no other output of this model")
    distance = max(
        1 - _cosine(own, known) for own, known in zip(vectors, golden.vectors, strict=True)
    )
    seen = f"cosine distance {max(distance, 0.0):.1e} to {len(images)} known vectors"
    if distance <= GOLDEN_TOLERANCE:
        return Finding("golden vectors", "ok", seen)
    return Finding(
        "golden vectors",
        "failed",
        f"{seen}; up to {GOLDEN_TOLERANCE:.0e} is rounding",
        "TensorFlow computes wrongly on this machine, or the cached model is damaged: remove it "
        "from EMBED_IMAGES_CACHE, and install the versions that are named above",
    )


def _run_errors() -> tuple[type[Exception], ...]:
    import tensorflow as tf

    return (BatchRejected, BatchTooLarge, ValueError, TypeError, tf.errors.OpError)


def _trial_problem(model: HubImageModel, images: Pixels) -> str | None:
    """Return what the trial before a job says, which knows the sizes that a network takes."""
    try:
        try_outputs(model, *images.shape[1:3])
    except UnusableModel as error:
        return str(error)
    return None


def _same(moved: float) -> str:
    return "the same bits" if moved == 0 else f"the same, but for {moved:.0e} of its length,"


def _spread(vectors: Vector) -> float:
    """Return the mean cosine distance of all pairs; 0 where a vector has no direction."""
    directions = vectors.astype(np.float64)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        return 0.0
    directions /= lengths
    cosines = (directions @ directions.T)[np.triu_indices(len(directions), 1)]
    return max(float(1 - cosines.mean()), 0.0)


def _cosine(vector: Vector, other: Vector) -> float:
    first, second = vector.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / max(lengths, 1e-30)


def _shown(value_range: tuple[float, float]) -> str:
    return "[{:g}, {:g}]".format(*value_range)
