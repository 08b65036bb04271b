"""What the network runs on: a GPU that is there or missing, and what this machine computes in."""

import logging
import os
import platform
import re
from pathlib import Path
from typing import Literal

from transforms.errors import BrokenModel
from transforms.records import GpuUse, Precision
from transforms.workers.worker_log import log_event

DeviceKind = Literal["cpu", "gpu"]

#: Of /proc/cpuinfo: the instructions that multiply bfloat16. oneDNN computes the same numbers with
#: AVX-512 alone, bit by bit on a MobileNet, and takes 2.9 times as long; without oneDNN, vectors
#: move by 1e-4 and it takes 3.7 times as long
#: (https://uxlfoundation.github.io/oneDNN/dev_guide_data_types.html).
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")

#: Without these instructions; see `_onednn_limit`.
_LIMITS_WITHOUT_BFLOAT16 = (
    *("SSE41", "SSE42", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"),
    "AVX512_CORE_VNNI",
)

#: From these compute capabilities on, a GPU multiplies such numbers itself
#: (https://docs.nvidia.com/cuda/cuda-c-programming-guide/, tensor cores).
GPU_CAPABILITIES: dict[Precision, tuple[int, int]] = {"float16": (7, 0), "bfloat16": (8, 0)}


def prepare_device(gpu: GpuUse = "optional") -> DeviceKind:
    """Make this process ready to load a model; return what it is going to run on.

    On a GPU, memory is taken as it is needed, so that other processes find some, and float32 means
    float32: TensorFlow would compute with 10 bits of precision (TensorFloat-32) from Ampere on.

    Args:
        gpu: whether there has to be one.

    Raises:
        BrokenModel: a GPU is required, and TensorFlow sees none.
    """
    import tensorflow as tf

    missing = missing_gpu(gpu)
    if missing is not None:
        if gpu == "required":
            raise BrokenModel(f"{missing}; `embed-images doctor` says there what is missing")
        if gpu == "expected":
            log_event(
                logging.WARNING,
                "gpu-missing",
                reason=missing,
                effect="THE CPU DOES THE WORK, many times slower",
                advice="`embed-images doctor` says there what is missing; with model.gpu=required "
                "such a worker fails",
            )
        return "cpu"
    for each in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(each, True)
        except RuntimeError:  # This process has used the GPU before, as it was set up then.
            break
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return "gpu"


def missing_gpu(gpu: GpuUse) -> str | None:
    """Return the beginning of a sentence that says so, where TensorFlow sees no GPU; else None."""
    if device_kind() == "gpu":
        return None
    return f"model.gpu is {gpu}, and TensorFlow sees no GPU on {platform.node() or 'this machine'}"


def device_kind() -> DeviceKind:
    """Return what TensorFlow runs a network on in this process."""
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def short_precisions() -> tuple[Precision, ...]:
    """Return the precisions that may be faster than float32 on such a device."""
    return ("bfloat16", "float16") if device_kind() == "gpu" else ("bfloat16",)


def why_not(precision: Precision) -> str | None:
    """Return why this machine does not compute in a precision by itself; None where it does.

    Where it does not, the same graph would be emulated: slower than float32, and with other numbers
    where TensorFlow does without oneDNN.

    Example:
        >>> why_not("float32") is None
        True
    """
    if precision == "float32":
        return None
    if device_kind() == "gpu":
        return _why_gpu_does_not(precision)
    if precision == "float16":
        return "float16 is for GPUs; on a CPU, bfloat16 is"
    from tensorflow.python.util import _pywrap_util_port

    if not _pywrap_util_port.IsMklEnabled():
        return "TensorFlow does without oneDNN here (TF_ENABLE_ONEDNN_OPTS)"
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return "this system does not tell what its CPU can do"
    if flags.isdisjoint(BFLOAT16_FLAGS):
        return f"the CPU has none of {', '.join(BFLOAT16_FLAGS)}"
    limit = _onednn_limit()
    if limit.upper() in _LIMITS_WITHOUT_BFLOAT16:
        return f"oneDNN may use {limit} at most here (ONEDNN_MAX_CPU_ISA)"
    return None


def _onednn_limit() -> str:
    """Return the instructions that oneDNN was told to use at most, or nothing.

    https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html; older versions
    know the second name alone, and newer ones both.
    """
    return os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""


def _why_gpu_does_not(precision: Precision) -> str | None:
    import tensorflow as tf

    wanted = GPU_CAPABILITIES[precision]
    for gpu in tf.config.list_physical_devices("GPU"):
        found = tf.config.experimental.get_device_details(gpu).get("compute_capability")
        if found is None:
            return "the GPU does not tell its compute capability"
        if tuple(found) < wanted:
            needed, has = (".".join(map(str, each)) for each in (wanted, found))
            return f"the GPU has compute capability {has}, and it takes {needed}"
    return None
