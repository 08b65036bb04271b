"""Contenders in processes of their own, which stay and are measured by turns.

    python benchmarks/contenders.py KIND

is such a process: it reads its settings, a line of JSON, makes itself ready, says so in such a
line, and then measures once for each further line that it reads. Processes of their own, because
engines bring libraries that do not go together, settings that hold for a whole process, and
threads; while one is measured, the others sleep. What they print besides goes to standard error.

"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What each kind is made by: a module of this folder, and a function of it that takes the
#: settings, makes everything ready, and returns what is measured, with a note.
KINDS = {
    "matrix_peak": ("limits", "matrix_peak"),
    "matrix_peak_openvino": ("limits", "matrix_peak_openvino"),
    "tensorflow": ("limits", "bare_tensorflow"),
    "openvino": ("limits", "bare_openvino"),
    "one_by_one": ("peers", "one_by_one"),
    "keras_predict": ("peers", "keras_predict"),
    "beam_stock": ("peers", "beam_stock"),
    "openvino_loop": ("peers", "openvino_loop"),
    "handler": ("ours", "handler"),
    "stages": ("stages", "stages"),
    "scaled_cosine": ("null_model", "scaled_cosine"),
    "null_pipeline": ("null_model", "null_pipeline"),
    "decode_loop": ("null_model", "decode_loop"),
}

Measures = Mapping[str, float | None]
"""Figures of one round, by their names, which hold the unit; None for one that means nothing."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender that can be measured."""

    measure: Callable[[], Measures]
    note: str = ""
    """What was settled while it was made ready, such as the batch size."""


class LeftOut(Exception):
    """A contender cannot take part; the message says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is to be measured, by its name in the tables."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    environment: tuple[tuple[str, str], ...] = ()


class RemoteContender:
    """A contender in a process of its own."""

    def __init__(self, contestant: Contestant) -> None:
        """Start the process, and wait until it is ready.

        Raises:
            LeftOut: it cannot take part, or ended.
        """
        self.name = contestant.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close().
        self._process = subprocess.Popen(
            [sys.executable, __file__, contestant.kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=quiet_environment() | dict(contestant.environment),
        )
        try:
            self.note: str = self._ask(json.dumps(contestant.settings))["note"]
        except LeftOut:
            self.close()
            raise

    def measure(self) -> Measures:
        """Measure once.

        Raises:
            LeftOut: the process ended.
        """
        measures: Measures = self._ask("measure")["measures"]
        return measures

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # That there is no answer says the same.
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        answer_line = self._process.stdout.readline()
        if not answer_line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise LeftOut(f"its process ended: {' '.join(last) or 'without a word'}")
        answer: dict[str, Any] = json.loads(answer_line)
        if "left_out" in answer:
            raise LeftOut(answer["left_out"])
        return answer


def quiet_environment() -> dict[str, str]:
    """Return the environment of contenders: float32 is float32, no GPU, and this folder."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        # Else oneDNN might be set to multiply float32 in fewer digits.
        "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
        "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
        "PYTHONPATH": path,
    }


def timed_rate(work: Callable[[], int]) -> Measures:
    """Do the work, which says how many images it did, and return its rate."""
    started, processor = time.perf_counter(), time.process_time()
    images = work()
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor
    return {"images/s": images / seconds, "CPU ms/image": 1000 * processor_seconds / images}


def rate_between(few: tuple[int, float, float], many: tuple[int, float, float]) -> Measures:
    """Return the rate of a job with its start-up apart, and with it.

    Where noise made the larger job the faster one, there is no rate but the one with start-up.

    Args:
        few: images, seconds and processor seconds of a small job.
        many: the same of a large one.

    Example:
        >>> rate_between((10, 2.0, 1.0), (30, 4.0, 2.0))["images/s"]
        10.0
    """
    images, seconds, processor_seconds = (
        large - small for small, large in zip(few, many, strict=True)
    )
    rate = images / seconds if seconds > 0 else None
    return {
        "images/s": rate,
        "CPU ms/image": 1000 * processor_seconds / images if processor_seconds > 0 else None,
        "images/s, start-up included": many[0] / many[1],
        "start-up s": None if rate is None else few[1] - few[0] / rate,
    }


def main() -> None:
    kind, settings = sys.argv[1], json.loads(sys.stdin.readline())
    # Whatever libraries print goes to standard error; the answers have the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: Mapping[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    module, function = KINDS[kind]
    try:
        ready: Ready = getattr(importlib.import_module(module), function)(settings)
    except (ImportError, LeftOut) as error:
        answer({"left_out": str(error)})
        return
    answer({"note": ready.note})
    for _ in sys.stdin:
        answer({"measures": dict(ready.measure())})


if __name__ == "__main__":
    # What a module of this folder imports is this very module, with the same classes.
    sys.modules["contenders"] = sys.modules["__main__"]
    main()
