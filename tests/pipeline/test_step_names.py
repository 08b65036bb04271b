"""The names of the steps of every kind of job are unique, and those that they have always been."""

import datetime

import apache_beam as beam
import pytest
import step_names
from apache_beam.ml.inference.base import ModelHandler

from pipeline.config import InputConfig, JobConfig, OutputConfig
from pipeline.destination import Destination
from pipeline.graph import Job, build_graph
from transforms.bigquery.client import TableName
from transforms.formats.embedding_table import Provenance
from transforms.records import OutputLayout, Preprocessing
from transforms.sources.image_query import QueryRows

CONTRACT = Preprocessing(height=8, width=8)
TABLE = TableName("my-project", "photos", "embeddings")
ROWS = TableName("my-project", "photos", "rows")
FOLDER = {"folder": "/out", "formats": ("tfrecord", "parquet")}
INTO_TABLE = {"table": TABLE, "staging_folder": "gs://my-bucket/staging"}


class NoModel(ModelHandler):
    """It is never asked: no job is run here."""

    def load_model(self):
        raise NotImplementedError

    def run_inference(self, batch, model, inference_args=None):
        raise NotImplementedError


def graph(pattern="/photos", queries=(), **destination):
    """The proto of a job's graph."""
    job = Job(
        config=JobConfig(
            input=InputConfig(patterns=(pattern,)), output=OutputConfig(path="/out", shards=2)
        ),
        destination=Destination(
            run_id="20261120T000000Z-00000000",
            started_at=datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC),
            run_folder="/out/runs/1",
            **destination,
        ),
        preprocessing=CONTRACT,
        provenance=Provenance("the handle", "0" * 16, CONTRACT.fingerprint()),
        handler=NoModel(),
        facts={},
        layout=OutputLayout(embedding_width=3),
        query_rows=queries,
    )
    pipeline = beam.Pipeline()
    build_graph(pipeline, job)
    return pipeline.to_runner_api()


JOBS = {
    "folder": FOLDER,
    "table": {"folder": None, "formats": ()} | INTO_TABLE,
    "incremental folder and table": FOLDER | INTO_TABLE | {"incremental": True},
    "query": FOLDER | {"queries": (QueryRows(ROWS, 3),)},
    "TFRecords of images": FOLDER | {"pattern": "tfrecord:/photos/*.tfrecord"},
}


@pytest.fixture(scope="module")
def graphs():
    return {name: graph(**settings) for name, settings in JOBS.items()}


@pytest.mark.parametrize("job", JOBS)
def test_no_two_steps_of_a_job_share_a_name(job, graphs):
    transforms = graphs[job].components.transforms.values()
    assert len({each.unique_name for each in transforms}) == len(transforms)


def test_the_names_are_those_that_they_have_always_been(graphs):
    """Dashboards and alerts hang on them: change the file only with a line in CHANGELOG.md."""
    names = set().union(*map(step_names.step_names, graphs.values()))
    assert sorted(names) == step_names.FILE.read_text().splitlines()
