"""The commands and their flags, read without Beam: what is ours, and what is left for Beam.

A mistyped flag of ours is refused here, at once. What is near none of ours is, for `run`, taken
for a flag of Beam, and `pipeline.options` has the last word on it.
"""

import difflib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.config import SECTIONS
from pipeline.config_layers import Setting, setting_from_text
from pipeline.flags import (
    PROGRAM,
    CommandParser,
    given_settings,
    keys_in_words,
    switch,
)
from pipeline.plan_request import PlanRequest, parse_plan
from pipeline.retry_request import RetryRequest, parse_retry
from pipeline.search_request import SearchRequest, parse_search
from transforms.errors import RequestError

_TOP_DESCRIPTION = "Turn a bucket or a folder of images into embeddings, on Apache Beam."

_TOP_EPILOG = f"""\
examples:
  {PROGRAM} run --input photos/ --output embeddings/
  {PROGRAM} run --input gs://BUCKET/photos --output bq://PROJECT.DATASET.TABLE --incremental \\
      --temp_location=gs://BUCKET/tmp
  {PROGRAM} retry --from embeddings/dead_letters --output embeddings-2/
  {PROGRAM} stage-model google/imagenet/inception_resnet_v2/feature_vector/5 models/inception
  {PROGRAM} doctor --model models/inception
  {PROGRAM} plan --input gs://BUCKET/photos --model models/inception
  {PROGRAM} search photos/cat.jpg --in embeddings/
  {PROGRAM} COMMAND --help

exit status: 0 done, 1 it failed, 2 the request was wrong."""

_RUN_EPILOG = """\
flags of Beam:
  Every other flag is Beam's, such as --runner, --project, --region, --temp_location or
  --direct_num_workers (https://beam.apache.org/documentation/runners/capability-matrix/ and
  https://cloud.google.com/dataflow/docs/reference/pipeline-options). They are words joined by
  underscores; ours are joined by dashes. Without --runner the job runs on this machine.

examples:
  The images of a folder, on this machine, with a network of random weights:
    {program} run --input photos/ --output embeddings/ --model untrained:inception_resnet_v2
  A glob (quoted: else the shell takes it apart) and a list, with another batch size:
    {program} run --input 'photos/**/*.jpg' --input @more.txt --output embeddings/ \\
        --set model.batch_size=16
  A manifest with a column uri, and two more columns that go along into the output; its
  dead letters are tried again with `{program} retry`:
    {program} run --input @photos.csv --set 'input.carry=[label, price:float64]' \\
        --output embeddings/ --set output.formats=[parquet]
  Every night: what is new in a bucket, into a BigQuery table (the rows pass through
  --temp_location); the second line takes the rows of deleted images out of it, too:
    {program} run --input gs://BUCKET/photos --output bq://PROJECT.DATASET.TABLE \\
        --incremental --temp_location=gs://BUCKET/tmp
    {program} run --input gs://BUCKET/photos --output bq://PROJECT.DATASET.TABLE \\
        --incremental --temp_location=gs://BUCKET/tmp --prune
  On Dataflow:
    {program} run --input 'gs://bucket/photos/**' --output gs://bucket/embeddings \\
        --runner=DataflowRunner --project=PROJECT --region=europe-west4 \\
        --temp_location=gs://bucket/tmp --sdk_container_image=IMAGE

configuration keys (for --config and --set; a later one beats a former: defaults, --config,
--set, flags):
{keys}
  beam.FLAG
      Any flag of Beam: beam.runner, beam.project, ...

exit status: 0 done, 1 the job failed, 2 the request was wrong."""

_STAGE_MODEL_EPILOG = """\
DEST then holds the model's files as they are, with the same fingerprint, and model.json, which
says what was found out about it. Give it as --model of run: workers read it from there, and
never ask the internet.

With --serving, DEST/serving holds a second SavedModel, for other engines, with the signatures
  serving_default  float32 [n, height, width, 3], RGB in [0, 1], of the model's input size. This is
                   what BigQuery ML is documented to want for object tables; it was not tried there.
  from_bytes       string [n]: JPEG or PNG files, decoded and resized inside the graph
  from_example     string [n]: serialized tf.Examples with such a file in image/encoded
docs/models.md says which files the last two do not read as run does.

examples:
  {program} stage-model google/imagenet/inception_resnet_v2/feature_vector/5 models/inception
  {program} stage-model https://tfhub.dev/google/imagenet/mobilenet_v1_100_224/feature_vector/5 \\
      gs://bucket/models/mobilenet --serving
  {program} stage-model mine.tar.gz models/mine --overwrite --set preprocess.size=[224,224]

configuration keys (for --set):
{keys}

exit status: 0 done, 1 the model could not be written, 2 the request was wrong."""

_DOCTOR_EPILOG = """\
It takes the configuration and the flags of run, checks what they name, and changes nothing.
Flags of Beam are given as keys: --set beam.temp_location=gs://BUCKET/tmp.

examples:
  {program} doctor
  {program} doctor --model models/inception
  {program} doctor --config job.yaml --json
  {program} doctor --input gs://BUCKET/photos --output bq://PROJECT.DATASET.TABLE \\
      --set beam.temp_location=gs://BUCKET/tmp

exit status: 0 no check failed, 1 a check failed, 2 the request was wrong."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line of `run` asks for."""

    settings: tuple[Setting, ...]
    """In the order in which they count: the file's, those of --set, those of our flags."""
    beam_flags: tuple[str, ...]
    """What is left for Beam, in its order."""
    verbose: bool
    wait: bool
    print_config: bool


@dataclass(frozen=True, slots=True)
class StageModelRequest:
    """What the command line of `stage-model` asks for."""

    handle: str
    destination: str
    """A folder or a gs:// prefix."""
    settings: tuple[Setting, ...]
    """Of the sections model and preprocess; the handle is not among them."""
    serving: bool
    overwrite: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What the command line of `doctor` asks for."""

    settings: tuple[Setting, ...]
    """In the order in which they count; input and output may be missing."""
    json_output: bool
    verbose: bool


Request = (
    RunRequest | RetryRequest | StageModelRequest | DoctorRequest | PlanRequest | SearchRequest
)


def parse_command_line(arguments: Sequence[str]) -> Request:
    """What the arguments (without the program's name) ask for.

    Raises:
        RequestError: an unknown command, a mistyped flag of ours, a flag without its value, a
            stray argument, or a configuration file or --set that cannot be read.
        SystemExit: after --help or --version, with status 0.

    Example:
        >>> request = parse_command_line(["run", "--input=a", "--runner=DirectRunner"])
        >>> request.beam_flags
        ('--runner=DirectRunner',)
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{argument!r} is no valid UTF-8; name the folder above it, or list it in a file"
            ) from error
    command = arguments[0] if arguments else ""
    if command in _COMMANDS:
        _, parse = _COMMANDS[command]
        return parse(arguments[1:])
    if command in ("-h", "--help", "--version"):
        _top_parser().parse_args([command])
    if not command:
        raise RequestError(f"a command is missing: {PROGRAM} run --input ... --output ...")
    if command.startswith("-"):
        raise RequestError(f"{command} comes before the command; write {PROGRAM} run {command} ...")
    plain = command.lower().replace("_", "-")
    near = difflib.get_close_matches(plain, _COMMANDS, 1) or [
        name for name in _COMMANDS if plain in name.split("-")
    ]
    raise RequestError(
        f"unknown command {command!r}; "
        + (f"did you mean {near[0]}?" if near else f"use one of {', '.join(_COMMANDS)}")
    )


def run_flags() -> list[str]:
    """Every flag of `run` that is ours, with its dashes."""
    return _run_parser().own_flags()


def run_flag_texts() -> dict[str, str]:
    """Every flag of `run` that is ours, and its line in the help."""
    return _run_parser().flag_texts()


def _top_parser() -> CommandParser:
    commands = "\n".join(f"  {name:<13}{summary}" for name, (summary, _) in _COMMANDS.items())
    parser = CommandParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [flags]",
        description=f"{_TOP_DESCRIPTION}\n\ncommands:\n{commands}",
        epilog=_TOP_EPILOG,
    )
    version = importlib.metadata.version("embed-images")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version}")
    return parser


def _run_parser() -> CommandParser:
    parser = CommandParser(
        prog=f"{PROGRAM} run",
        usage=f"{PROGRAM} run --input PATTERN --output PATH [flags] [flags of Beam]",
        description="Embed images: one vector an image, written as TFRecords or Parquet, into a "
        "BigQuery table, or both.",
        epilog=_RUN_EPILOG.format(program=PROGRAM, keys=keys_in_words(SECTIONS)),
    )
    parser.add_job_flags()
    parser.add_run_switches()
    return parser


def _parse_run(arguments: Sequence[str]) -> RunRequest:
    stray = (
        "every image, folder or pattern needs its own --input, and a pattern needs quotes to "
        "reach this command whole"
    )
    parsed, beam_flags = _run_parser().parse_with_beam_flags(arguments, stray)
    return RunRequest(
        settings=tuple(given_settings(parsed)),
        beam_flags=beam_flags,
        verbose=switch("--verbose", parsed.verbose),
        wait=not switch("--no-wait", parsed.no_wait),
        print_config=switch("--print-config", parsed.print_config),
    )


def _parse_stage_model(arguments: Sequence[str]) -> StageModelRequest:
    sections = ("model", "preprocess")
    parser = CommandParser(
        prog=f"{PROGRAM} stage-model",
        description="Bring a model to a folder or to gs://, checked, for workers to read.",
        epilog=_STAGE_MODEL_EPILOG.format(
            program=PROGRAM, keys=keys_in_words(sections, "model.handle")
        ),
    )
    parser.add_argument("handle", metavar="HANDLE", help="Of the model, as --model of run.")
    parser.add_argument("destination", metavar="DEST", help="A folder or a gs:// prefix.")
    parser.add_switch("--serving", "Also export signatures for other engines to DEST/serving.")
    parser.add_switch("--overwrite", "Replace the model that is in DEST.")
    parser.add_set()
    parser.add_switch("--verbose", "Show what TensorFlow logs, too.")
    parsed = parser.parse_all(arguments)
    settings = tuple(setting_from_text(text) for text in parsed.set)
    for setting in settings:
        if setting.path.partition(".")[0] not in sections:
            raise RequestError(
                f"{setting.path}: stage-model takes keys of model and preprocess only "
                f"({setting.origin})"
            )
        if setting.path == "model.handle":
            raise RequestError("model.handle: name the model as HANDLE (--set)")
    return StageModelRequest(
        handle=parsed.handle,
        destination=parsed.destination,
        settings=settings,
        serving=switch("--serving", parsed.serving),
        overwrite=switch("--overwrite", parsed.overwrite),
        verbose=switch("--verbose", parsed.verbose),
    )


def _parse_doctor(arguments: Sequence[str]) -> DoctorRequest:
    parser = CommandParser(
        prog=f"{PROGRAM} doctor",
        usage=f"{PROGRAM} doctor [flags]",
        description="Check this machine, the model and the storage before a job pays for them.",
        epilog=_DOCTOR_EPILOG.format(program=PROGRAM),
    )
    parser.add_job_flags()
    parser.add_switch("--json", "Print the checks as JSON instead of a table.")
    parser.add_switch("--verbose", "Show what TensorFlow logs, too.")
    parsed = parser.parse_all(arguments)
    return DoctorRequest(
        settings=tuple(given_settings(parsed)),
        json_output=switch("--json", parsed.json),
        verbose=switch("--verbose", parsed.verbose),
    )


#: Each with the line that says what it is for, and what reads its arguments.
_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], Request]]] = {
    "run": ("embed images", _parse_run),
    "retry": ("embed what failed in a run", parse_retry),
    "stage-model": ("bring a model to a folder or to gs://, checked", _parse_stage_model),
    "doctor": ("check the machine, the model and the storage", _parse_doctor),
    "plan": ("say what a job will find, take and cost", parse_plan),
    "search": ("find the embedded images that are most like an image", parse_search),
}
