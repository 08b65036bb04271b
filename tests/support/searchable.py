"""Outputs to search in, written by the parts that a run is made of, without a pipeline."""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from incremental_folders import write_records

from pipeline.config import InputConfig, JobConfig, ModelConfig, OutputConfig, PreprocessConfig
from pipeline.destination import Destination
from pipeline.encoder import ImageEncoder
from pipeline.run_facts import run_facts
from transforms.folders.output_names import run_folder
from transforms.folders.run_report import RunCounts, make_report, write_report
from transforms.formats.embedding_rows import RowStamp, embedding_rows
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import embeddings_schema_text, encode_embeddings
from transforms.ledgers.ledger import entries_to_arrow, ledger_entry
from transforms.records import (
    CarriedColumn,
    CarriedValue,
    Embedding,
    ImageInfo,
    Origin,
    OutputLayout,
)


@dataclass(frozen=True)
class EmbeddedImages:
    """What a run would write of some images."""

    embeddings: list[Embedding]
    stamp: RowStamp
    facts: Mapping[str, Any]

    def cosines(self, name: str) -> dict[str, float]:
        """The cosine of every image to the one whose URI ends so, by URI, largest first."""
        vectors = {each.info.uri: each.vector.astype(np.float64) for each in self.embeddings}
        unit = {uri: vector / np.linalg.norm(vector) for uri, vector in vectors.items()}
        [query] = [vector for uri, vector in unit.items() if uri.endswith(name)]
        cosines = {uri: float(vector @ query) for uri, vector in unit.items()}
        return dict(sorted(cosines.items(), key=lambda pair: -pair[1]))


def embed_images(
    paths: Sequence[Path],
    model: str,
    *,
    preprocess: PreprocessConfig = PreprocessConfig(),
    columns: tuple[CarriedColumn, ...] = (),
    carried: Sequence[tuple[CarriedValue, ...]] = (),
    run_id: str = "20261120T000000Z-00000000",
) -> EmbeddedImages:
    """Embed image files of 64 x 48 pixels; `carried` has the values of each."""
    encoder = ImageEncoder(model, preprocess=preprocess)
    layout = OutputLayout(embedding_width=encoder.width)
    values = carried or [()] * len(paths)
    config = JobConfig(
        input=InputConfig(patterns=("photos",)),
        output=OutputConfig(path="out"),
        model=ModelConfig(handle=model),
        preprocess=preprocess,
    )
    facts = run_facts(
        config,
        PipelineOptions([]),
        Destination(run_id, datetime.datetime.now(datetime.UTC), "out", "out"),
        encoder.description,
        "float32",
        encoder.preprocessing,
        layout,
        columns,
    )
    provenance = Provenance(
        model, encoder.description.fingerprint, encoder.preprocessing.fingerprint(), "float32"
    )
    embeddings = [
        Embedding(
            ImageInfo(
                uri=str(path),
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                format="JPEG",
                height=48,
                width=64,
                origin=Origin(carried=row),
            ),
            vector,
            batch_slots=1.0,
        )
        for path, vector, row in zip(paths, encoder.bulk_encode(paths), values, strict=True)
    ]
    return EmbeddedImages(embeddings, RowStamp(provenance, run_id, layout, columns), facts)


def report_of(embedded: EmbeddedImages, folder: str, **changes: Any) -> dict[str, Any]:
    """The run.json of a complete run that wrote these."""
    count = len(embedded.embeddings)
    report = make_report(
        folder,
        embedded.facts,
        RunCounts(found=count, skipped=0, embedded=count, failed=0),
        None,
        ignored=0,
        mean_batch_slots=1.0,
        failures_by_error={},
        examples=[],
    )
    return {**report, **changes}


def write_output(
    folder: Path, embedded: EmbeddedImages, *, file_format: str = "tfrecord", **changes: Any
) -> Path:
    """Write the output folder of a plain run; `changes` are keys of its run.json."""
    folder.mkdir(parents=True)
    stamp = embedded.stamp
    if file_format == "parquet":
        rows = embedding_rows(embedded.embeddings, stamp, vectors="float32")
        pq.write_table(rows, folder / "embeddings-00000-of-00001.parquet")
    else:
        records = encode_embeddings(
            embedded.embeddings, stamp.provenance, stamp.layout, stamp.columns
        )
        write_records(folder / "embeddings-00000-of-00001.tfrecord", records)
        schema = embeddings_schema_text(stamp.layout, stamp.columns)
        (folder / "schema.pbtxt").write_text(schema)
    write_report(str(folder), report_of(embedded, str(folder), **changes))
    (folder / "_SUCCESS").touch()
    return folder


def write_run(folder: Path, embedded: EmbeddedImages, *earlier: EmbeddedImages) -> None:
    """Write an incremental run behind earlier ones, all of whose rows are still live."""
    made = [*earlier, embedded]
    parents = [one.stamp.run_id for one in earlier[-1:]]
    out = Path(run_folder(str(folder), embedded.stamp.run_id))
    write_output(out, embedded, file_format="parquet", parents=parents)
    entries = [
        ledger_entry(each, one.stamp.provenance, one.stamp.run_id)
        for one in made
        for each in one.embeddings
    ]
    pq.write_table(entries_to_arrow(entries), out / "manifest-00000-of-00001.parquet")
