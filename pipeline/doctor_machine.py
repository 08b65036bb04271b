"""What the doctor looks at on the machine: packages, GPU, bfloat16, memory."""

import ctypes
import importlib.metadata
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.config import ModelConfig
from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.networks.device import device_kind, short_precisions, why_not
from transforms.networks.hub_model import HubImageModel
from transforms.networks.model_checks import Finding, Verdict
from transforms.networks.precision_trial import (
    LARGEST_DISTANCE,
    LARGEST_MEAN_DISTANCE,
    TRIAL_BATCH,
    try_precisions,
)
from transforms.networks.trial_images import photograph_like_images
from transforms.records import Pixels

#: Named in the table where all is well; the others only where something is wrong.
_MAIN_PACKAGES = ("apache-beam", "tensorflow", "tensorflow-hub", "numpy", "pillow", "tfx-bsl")

_INSTALL = "install it anew: pip install --upgrade --force-reinstall embed-images"

#: Batches beyond this are judged from this one.
_LARGEST_MEASURED_BATCH = 32


def check_packages(distribution: str = "embed-images") -> list[Finding]:
    """Whether Python and the installed packages are in the ranges that a distribution declares."""
    try:
        declared = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        seen = f"{distribution} is not installed, so nothing says which versions it needs"
        return [Finding("packages", "failed", seen, f"pip install {distribution}")]
    own = platform.python_version()
    wanted = SpecifierSet(str(declared.metadata.json.get("requires_python", "")))
    if wanted.contains(own, prereleases=True):
        python = Finding("python", "ok", own)
    else:
        seen = f"{own}, but {distribution} needs {wanted}"
        python = Finding("python", "failed", seen, "make the environment with such a Python")
    requirements = [Requirement(line) for line in declared.requires or ()]
    needed = [
        each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
    problems = list(_version_problems(needed))
    if problems:
        return [python, Finding("packages", "failed", "; ".join(problems), _INSTALL)]
    shown = [each.name for each in needed if each.name in _MAIN_PACKAGES]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)
    seen = f"all {len(needed)} in their ranges" + (f": {versions}, ..." if versions else "")
    return [python, Finding("packages", "ok", seen)]


def _version_problems(requirements: list[Requirement]) -> Iterator[str]:
    for each in requirements:
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{each.name} is missing"
            continue
        if not each.specifier.contains(version, prereleases=True):
            yield f"{each.name} is {version}, not {each.specifier}"


def check_gpu() -> Finding:
    """Whether TensorFlow sees a GPU, and if not why."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        names = ", ".join(str(each.get("device_name", "a GPU")) for each in details)
        return Finding("gpu", "ok", f"TensorFlow sees {names}")
    return explain_missing_gpu(
        built_with_cuda=tf.test.is_built_with_cuda(),
        has_driver=_has_nvidia_driver(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        missing_libraries=_missing_cuda_packages(),
    )


def explain_missing_gpu(
    *,
    built_with_cuda: bool,
    has_driver: bool,
    visible: str | None,
    missing_libraries: list[str],
) -> Finding:
    """Return why TensorFlow sees no GPU.

    Args:
        built_with_cuda: whether this TensorFlow can use NVIDIA GPUs at all.
        has_driver: whether NVIDIA's driver is on this machine.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
        missing_libraries: packages of `tensorflow[and-cuda]` that are not installed.
    """
    if not has_driver:
        return Finding("gpu", "ok", "none: there is no NVIDIA driver here; the CPU does the work")
    if visible is not None and visible.strip() in ("", "-1"):
        seen = f"none: CUDA_VISIBLE_DEVICES={visible!r} hides them; the CPU does the work"
        return Finding("gpu", "ok", seen)
    if not built_with_cuda:
        seen = "there is a driver, but this TensorFlow was built without CUDA"
        advice = "install the tensorflow wheel for Linux in place of tensorflow-cpu"
    elif missing_libraries:
        seen = f"there is a driver, but CUDA libraries are missing: {', '.join(missing_libraries)}"
        advice = "pip install 'embed-images[gpu]'"
    else:
        seen = "there are a driver and CUDA libraries, but TensorFlow opens no GPU"
        advice = "see what it says with --verbose; an old driver (nvidia-smi) is the usual reason"
    return Finding("gpu", "suspect", seen, advice)


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/proc/driver/nvidia/version")
    return True


def _missing_cuda_packages() -> list[str]:
    try:
        lines = importlib.metadata.requires("tensorflow") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    extra = [
        each
        for each in map(Requirement, lines)
        if each.marker and not each.marker.evaluate({"extra": ""})
        if each.marker.evaluate({"extra": "and-cuda"})
    ]
    # Another version than TensorFlow asks for may do; one that is not there cannot.
    return [problem.split()[0] for problem in _version_problems(extra) if "missing" in problem]


def check_bfloat16() -> Finding:
    """Whether this machine computes bfloat16 by itself, which is about twice as fast."""
    reason = why_not("bfloat16")
    if reason is not None:
        return Finding("bfloat16", "ok", f"no: {reason}; float32 works everywhere")
    return Finding("bfloat16", "ok", f"yes: the {device_kind().upper()} has it")


def check_precision(config: ModelConfig, model: HubImageModel, height: int, width: int) -> Finding:
    """Whether this machine computes in the precision of a job, and how far it moves the vectors.

    Args:
        config: of the job, whose precision is not float32.
        model: loaded, in float32.
        height: of the images that the model is loaded for, in pixels.
        width: of the same.
    """
    auto = config.precision == "auto"
    wanted = short_precisions() if config.precision == "auto" else (config.precision,)
    reasons = [why_not(each) for each in wanted]
    if all(reasons):
        advice = "" if auto else "use other machines, or model.precision=float32"
        verdict: Verdict = "ok" if auto else "failed"
        return Finding("precision", verdict, f"{wanted[0]}: no, {reasons[0]}", advice)
    able = [each for each, reason in zip(wanted, reasons, strict=True) if reason is None]
    # The images that `auto` tries a model on.
    images = photograph_like_images(height, width, min(config.batch_size, TRIAL_BATCH))
    try:
        full, *trials = try_precisions(model, able, images)
    except (UnusableModel, BatchRejected) as error:
        return Finding("precision", "failed", str(error), "see the other rows about this model")
    seen = "; ".join(each.in_words(full) for each in trials)
    if not auto and trials[0].problem:
        return Finding("precision", "failed", seen, "use model.precision=float32")
    if not auto and not trials[0].faithful:
        advice = (
            f"more than {LARGEST_MEAN_DISTANCE:.0e} ({LARGEST_DISTANCE:.0e} at most): compare "
            "search results, or use float32"
        )
        return Finding("precision", "suspect", seen, advice)
    return Finding("precision", "ok", seen)


def check_memory(model: HubImageModel, images: Pixels, batch_size: int, copies: int = 1) -> Finding:
    """Whether the memory is enough for the batches of a job, measured on growing batches.

    What a batch costs is the highest memory of this process, less what it had before the first;
    larger batches than 32 are taken to cost in proportion. A GPU has memory of its own, which is
    found to be enough by running the whole batch.

    Args:
        model: loaded.
        images: some to make batches of.
        batch_size: of the job.
        copies: of the model on one machine.
    """
    on_gpu = _on_gpu()
    available, before = available_memory(), _resident_memory()
    if available is None or before is None:
        return Finding("memory", "skipped", "this system does not tell how much is free")
    largest = batch_size if on_gpu else min(batch_size, _LARGEST_MEASURED_BATCH)
    sizes = sorted({size for size in (2, 8) if size < largest} | {largest})
    cost = 0.0
    for place, size in enumerate(sizes):
        try:
            model.embed(np.resize(images, (size, *images.shape[1:])))
        except BatchRejected as error:
            return Finding("memory", "skipped", f"the model does not run: {error}")
        except BatchTooLarge as error:
            return _too_large(
                f"the device has no memory for a batch of {size}: {error}", sizes, place
            )
        cost = max(_peak_memory() - before, 0)
        following = sizes[place + 1] if place + 1 < len(sizes) else batch_size
        needed = cost * following / size
        if not on_gpu and needed > available:
            seen = (
                f"a batch of {following} takes about {_gb(needed)}, and {_gb(available)} are free"
            )
            return _too_large(seen, sizes, place + 1)
    total = (before + cost * batch_size / sizes[-1]) * copies
    room = available + before
    seen = (
        f"with batches of {batch_size} up to {_gb(total)} in all"
        + (f" ({copies} copies)" if copies > 1 else "")
        + f", and there are {_gb(room)}"
        + ("; on the GPU the batch went through" if on_gpu else "")
    )
    if total > room:
        return Finding("memory", "failed", seen, "use fewer model.copies or a smaller batch")
    return Finding("memory", "ok", seen)


def _too_large(seen: str, sizes: list[int], place: int) -> Finding:
    smaller = sizes[place - 1] if place else 1
    advice = f"--set model.batch_size={smaller}, or more memory"
    return Finding("memory", "failed", seen, advice)


def available_memory() -> int | None:
    """Return the bytes that this process may still take; None where the system does not tell.

    The free memory of the machine, or what a container leaves if that is less.
    """
    try:
        free = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    if free is None:
        return None
    return min(int(free[1]) * 1024, *_left_in_container(Path("/sys/fs/cgroup")))


def _left_in_container(root: Path) -> list[int]:
    """Return what cgroups of either version leave: https://docs.kernel.org/admin-guide/."""
    left = [sys.maxsize]
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = int((root / limit).read_text())
            taken = int((root / used).read_text())
            statistics = (root / limit).with_name("memory.stat").read_text()
        except (OSError, ValueError):  # No such file, or the word "max".
            continue
        # The kernel gives the cache of files back when memory runs short.
        spare = re.search(rf"^{cache} (\d+)", statistics, re.M)
        left.append(max(allowed - taken + (int(spare[1]) if spare else 0), 0))
    return left


def _resident_memory() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


def _peak_memory() -> int:
    # Kilobytes on Linux, where alone it is asked for.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
