"""The command line of a job for Dataflow, and what the service was given for it."""

from pathlib import Path
from typing import Any, NamedTuple

from dataflow_server import DataflowServer, staged_pipeline
from storage_emulator import StorageServer

from pipeline.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGE = "europe-west4-docker.pkg.dev/my-project/images/embed-images:1"


class Submission(NamedTuple):
    """What the service was given."""

    job: dict[str, Any]
    pipeline: Any
    """The Pipeline proto."""

    @property
    def transforms(self) -> dict[str, Any]:
        """By their unique names."""
        return {each.unique_name: each for each in self.pipeline.components.transforms.values()}

    def hints(self, transform: Any) -> dict[str, str]:
        """Return the resource hints of a transform."""
        environments = self.pipeline.components.environments
        return {
            urn: value.decode()
            for urn, value in environments[transform.environment_id].resource_hints.items()
        }


def arguments(
    config: str,
    storage: StorageServer,
    dataflow: DataflowServer,
    model: str,
    output: str,
    *more: str,
    images: str = "photos",
) -> list[str]:
    """Return the command line of `run` with configs/dataflow_CONFIG.yaml, in the bucket.

    Args:
        config: t4, l4, a100 or cpu.
        storage: what holds the images.
        dataflow: where the job is sent.
        model: its address on gs://.
        output: a folder of the bucket.
        *more: further flags.
        images: a folder of the bucket, or an input of another kind.
    """
    bucket = storage.address
    return [
        *("run", "--config", str(CONFIGS / f"dataflow_{config}.yaml")),
        *("--input", images if ":" in images else f"{bucket}/{images}"),
        *("--output", f"{bucket}/{output}", "--model", model),
        *("--project=my-project", "--region=europe-west4", f"--temp_location={bucket}/temporary"),
        *(f"--sdk_container_image={IMAGE}", f"--dataflow_endpoint={dataflow.endpoint}"),
        *("--max-failure-ratio=0.5", "--allow-other-models"),
        # What Beam sets by itself where the endpoint is Google's.
        "--save_main_session",
        *more,
    ]


def submit(dataflow: DataflowServer, *command_line: str) -> Submission:
    """Submit without waiting; return what the service was given last."""
    assert main([*command_line, "--no-wait"]) == 0
    return Submission(dataflow.jobs[-1], staged_pipeline(dataflow.jobs[-1]))
