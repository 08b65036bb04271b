"""The paths of a job: which of them its workers can see, and what they are in full."""

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.config import EXAMPLES_PREFIX, JobConfig
from pipeline.model_handle import complete_handle
from transforms.errors import RequestError
from transforms.storage.file_listing import is_remote, storage_path


def runs_on_dataflow(options: PipelineOptions) -> bool:
    """Return whether the runner is Dataflow's."""
    return "Dataflow" in (options.view_as(StandardOptions).runner or "")


def refuse_local_paths_on_dataflow(config: JobConfig, options: PipelineOptions) -> None:
    """Refuse inputs and outputs that only this machine can see.

    Raises:
        RequestError: the runner is Dataflow's, and a path is local. A local model may be part of
            the workers' image, so it is let pass; a worker without it stops the job.
    """
    if not runs_on_dataflow(options):
        return
    inputs = [_split(pattern)[1] for pattern in config.input.patterns]
    for path in (*filter(None, [config.output.path]), *inputs):
        if not is_remote(path):
            raise RequestError(
                f"Dataflow's workers cannot see {path}, which is on this machine; use a gs:// path"
            )


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """Make the local paths absolute: workers may run elsewhere, and outputs outlive a folder."""
    labels, folder = config.model.labels, config.output.path
    return config.model_copy(
        update={
            "input": config.input.model_copy(
                update={"patterns": tuple(map(_absolute_input, config.input.patterns))}
            ),
            "output": config.output.model_copy(
                update={"path": storage_path(folder) if folder else folder}
            ),
            "model": config.model.model_copy(
                update={
                    "handle": complete_handle(config.model.handle, config.model.weights),
                    "weights": None,
                    "labels": storage_path(labels) if labels else labels,
                }
            ),
        }
    )


def _absolute_input(location: str) -> str:
    prefix, path = _split(location)
    return f"{prefix}{storage_path(path)}"


def _split(location: str) -> tuple[str, str]:
    """What says the kind of an input, and where it is."""
    for prefix in ("@", EXAMPLES_PREFIX):
        if location.startswith(prefix):
            return prefix, location.removeprefix(prefix)
    return "", location
