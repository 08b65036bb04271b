"""Reading, decoding and resizing without a network: the pipeline, and the bare loop beside it.

Both turn the same files into the pixels of the same contract. The pipeline is the whole job, with
a model that costs nothing and vectors as wide as the real one's, TFRecords and checks included; the
loop is `read_bytes` and `decode_image` in a pool of threads, and throws the pixels away.
"""

import datetime
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from contenders import LeftOut, Measures, Ready, rate_between, timed_rate

from transforms.images.image_codec import decode_image
from transforms.records import Pixels, Preprocessing

WIDTH = 1536


def decode_loop(settings: Mapping[str, Any]) -> Ready:
    """A pool of threads, one a core, that reads, decodes and resizes, and does nothing else."""
    contract = _contract(settings)
    paths, threads = settings["paths"], settings["threads"]

    def decode(path: str) -> int:
        return decode_image(Path(path).read_bytes(), contract).pixels.nbytes

    def work() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(decode, paths))

    # Into the page cache, where the pipeline finds them too.
    for path in paths:
        Path(path).read_bytes()
    decode(paths[0])
    return Ready(lambda: timed_rate(work), f"{threads} threads")


def null_pipeline(settings: Mapping[str, Any]) -> Ready:
    """The whole job with a model that costs nothing, start-up apart."""
    # Importing Beam takes seconds, which the loop has no need of.
    from pipeline.options import keep_local_engine_from_losing_data

    keep_local_engine_from_losing_data()
    run = _job_runner(settings)
    few, many = settings["few"], settings["many"]
    run(few)
    return Ready(lambda: rate_between(run(few), run(many)), "start-up apart")


def scaled_cosine(settings: Mapping[str, Any]) -> Ready:
    """How near the vectors of a real model lie after scaled decoding to those after full decoding.

    Measured in the pixels and the model of the pipeline, as `ImageEncoder` gives them.
    """
    from pipeline.config import PreprocessConfig
    from pipeline.encoder import ImageEncoder

    model, paths = settings["model"], settings["paths"]
    if not Path(model).exists():
        raise LeftOut(f"there is no model in {model}")

    def measure() -> Measures:
        full, scaled = (
            np.stack(ImageEncoder(model, preprocess=contract).bulk_encode(paths))
            for contract in (
                PreprocessConfig(scaled_decoding="off"),
                PreprocessConfig(scaled_decoding="auto"),
            )
        )
        lengths = np.linalg.norm(full, axis=1) * np.linalg.norm(scaled, axis=1)
        cosines = (full * scaled).sum(axis=1) / lengths
        return {"mean cosine": float(cosines.mean()), "lowest cosine": float(cosines.min())}

    return Ready(measure, f"{len(paths)} photographs")


def _contract(settings: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(299, 299, scaled_decoding=settings["scaled_decoding"])


def _job_runner(settings: Mapping[str, Any]) -> Callable[[str], tuple[int, float, float]]:
    """Return what runs the job over a folder and tells images, seconds and processor seconds."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import ModelHandler

    from pipeline.config import BeamConfig, InputConfig, JobConfig, OutputConfig
    from pipeline.destination import Destination, destination_facts, prepare_destination
    from pipeline.graph import Job, build_graph
    from pipeline.options import beam_options
    from pipeline.quiet import Console
    from pipeline.submission import run_pipeline
    from transforms.formats.embedding_table import Provenance
    from transforms.networks.batch_isolation import Answer, EmbeddedPixels
    from transforms.records import OutputLayout

    contract = _contract(settings)
    layout = OutputLayout(embedding_width=WIDTH)
    provenance = Provenance("null model", "f" * 64, contract.fingerprint())
    vector = np.ones(WIDTH, np.float32)
    numbers = itertools.count()

    class NullModel(ModelHandler[Pixels, Answer, None]):
        def load_model(self) -> None:
            return None

        def run_inference(
            self, batch: Sequence[Pixels], model: None, inference_args: object = None
        ) -> list[Answer]:
            return [EmbeddedPixels(vector, 1.0) for _ in batch]

        def get_num_bytes(self, batch: Sequence[Pixels]) -> int:
            return sum(pixels.nbytes for pixels in batch)

        def batch_elements_kwargs(self) -> Mapping[str, Any]:
            return {"min_batch_size": 32, "max_batch_size": 32}

    def run(inputs: str) -> tuple[int, float, float]:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            config = JobConfig(
                input=InputConfig(patterns=(inputs,)), output=OutputConfig(path=folder)
            )
            destination = Destination(
                run_id=f"20261120T063000Z-{next(numbers):08x}",
                started_at=datetime.datetime.now(datetime.UTC),
                folder=folder,
                run_folder=folder,
                incremental=False,
            )
            job = Job(
                config=config,
                destination=destination,
                preprocessing=contract,
                provenance=provenance,
                handler=NullModel(),
                facts=destination_facts(destination),
                layout=layout,
            )
            prepare_destination(destination, config.output, layout, (), provenance)
            started, processor = time.perf_counter(), time.process_time()
            pipeline = beam.Pipeline(options=beam_options(BeamConfig(), []))
            build_graph(pipeline, job)
            with open(os.devnull, "w") as nowhere:
                _, problem = run_pipeline(pipeline, Console(nowhere, None), wait=True)
            if problem:
                raise RuntimeError(problem)
            seconds = time.perf_counter() - started
            processor_seconds = time.process_time() - processor
            _check_complete(Path(folder))
        return len(list(Path(inputs).iterdir())), seconds, processor_seconds

    return run


def _check_complete(folder: Path) -> None:
    if not (folder / "_SUCCESS").exists():
        raise RuntimeError("the job has left no _SUCCESS")
