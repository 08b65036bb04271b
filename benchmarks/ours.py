"""`embed-images run` as a whole process, and its model handler alone."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from contenders import LeftOut, Measures, Ready, quiet_environment, rate_between, timed_rate
from limits import SIDE

MODEL = "untrained:inception_resnet_v2"

#: Kibibytes on Linux, bytes on macOS.
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


class Finished(NamedTuple):
    """One process that has ended well."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def run_process(command: list[str]) -> Finished:
    """Run a command; its times and its peak memory are the operating system's.

    Raises:
        LeftOut: it failed.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=quiet_environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        # Else Popen would wait for it again.
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            last = output.read().decode(errors="replace").strip().splitlines()[-1:]
            raise LeftOut(f"exit status {process.returncode}: {' '.join(last)}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _PEAK_UNIT)


class WholeProcess:
    """`embed-images run` over a few images and over many, each a process from start to end."""

    note = "the whole process, start-up apart"

    def __init__(self, name: str, few: str, many: str, flags: tuple[str, ...]) -> None:
        """Measure over two folders of images, of which each holds other images."""
        self.name = name
        self._few, self._many, self._flags = few, many, flags
        self._run(few)

    def measure(self) -> Measures:
        """Run both jobs."""
        few, many = self._run(self._few), self._run(self._many)
        rates = rate_between(few.job, many.job)
        return dict(rates) | {
            "peak GB": max(few.peak_bytes, many.peak_bytes) / 1e9,
            "batch fill": many.batch_fill,
        }

    def close(self) -> None:
        """Do nothing: no process is left."""

    def _run(self, inputs: str) -> "_Run":
        folder = tempfile.mkdtemp(prefix="benchmark-")
        output = os.path.join(folder, "embeddings")
        try:
            command = [sys.executable, "-m", "pipeline", "run", f"--input={inputs}"]
            command += [f"--output={output}", f"--model={MODEL}", *self._flags]
            done = run_process(command)
            with open(os.path.join(output, "run.json")) as file:
                report = json.load(file)
        finally:
            shutil.rmtree(folder)
        images = len(os.listdir(inputs))
        if report["counts"]["embedded"] != images:
            raise LeftOut(f"it embedded {report['counts']['embedded']} of {images} images")
        job = images, done.seconds, done.processor_seconds
        return _Run(job, done.peak_bytes, report["mean_batch_fill"])


class _Run(NamedTuple):
    job: tuple[int, float, float]
    """Images, seconds, processor seconds."""
    peak_bytes: int
    batch_fill: float


def handler(settings: Mapping[str, Any]) -> Ready:
    """The model handler of the job alone, from uint8 pixels to vectors, out of Beam's hands."""
    from transforms.model_handler import HubImageModelHandler, ModelSettings
    from transforms.models.model_description import describe_model
    from transforms.models.model_resolution import resolve_model
    from transforms.networks.device import why_not

    precision, batch_size = settings["precision"], settings["batch_size"]
    if reason := why_not(precision):
        raise LeftOut(reason)
    model_settings = ModelSettings(
        handle=MODEL,
        fingerprint=describe_model(resolve_model(MODEL)).fingerprint,
        height=SIDE,
        width=SIDE,
        value_range=(0.0, 1.0),
        batch_size=batch_size,
        precision=precision,
    )
    model_handler = HubImageModelHandler(model_settings)
    model = model_handler.load_model()
    random = np.random.default_rng(0)
    batch = list(random.integers(0, 256, (batch_size, SIDE, SIDE, 3), np.uint8))
    batches = max(2, -(-settings["images"] // batch_size))

    def work() -> int:
        return sum(len(model_handler.run_inference(batch, model)) for _ in range(batches))

    model_handler.run_inference(batch, model)
    return Ready(lambda: timed_rate(work), f"from uint8 to vectors, batches of {batch_size}")
