"""Beam's options: the `beam` section of the configuration, then the command line, checked.

Beam itself only warns of a flag that it does not know, ends the process on a bad value, and
learns late that a Dataflow job has no project. Here all of that is a RequestError.
"""

import argparse
import os
import re
import socket
from collections.abc import Sequence
from difflib import get_close_matches

import apache_beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners import PipelineRunner, create_runner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.portable_runner import PortableRunner

from pipeline.command_line import run_flags
from pipeline.config import BeamConfig, BeamValue
from pipeline.flags import flags_among, nearest_flag
from transforms.errors import RequestError

#: The local engine. Beam's own default, DirectRunner, first looks for a Prism to download.
DEFAULT_RUNNER = "FnApiRunner"

#: Set in the image of deploy/: its own name. What is submitted from there runs there, too.
IMAGE_VARIABLE = "EMBED_IMAGES_IMAGE"

_RUNNER_NAMES = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
_DATAFLOW_RUNNERS = ("DataflowRunner", "TestDataflowRunner")


def beam_options(beam: BeamConfig, argv_flags: Sequence[str]) -> PipelineOptions:
    """The options of the pipeline; where both name a flag, the command line wins.

    Flags that Beam collects, such as --experiments, add up instead. Without a runner the job
    runs on this machine, on all of its processors. DirectRunner runs that way too, and downloads
    nothing. Nothing here uses the network.

    Args:
        beam: the `beam` section of the configuration.
        argv_flags: Beam's flags from the command line, as they were written.

    Raises:
        RequestError: a flag that neither Beam nor we know (a portable runner's job server may
            know more flags, so there they pass), a value that Beam refuses, an unknown runner,
            or one without what it needs.

    Example:
        >>> options = beam_options(BeamConfig(), ["--direct_num_workers=2"])
        >>> options.view_as(StandardOptions).runner
        'FnApiRunner'
    """
    runner_name = _runner_name(beam, argv_flags)
    runner = _load_runner(runner_name)
    knows_more_flags = isinstance(runner, PortableRunner)
    parser = _beam_parser()

    rendered = [
        flag
        for key, value in beam.flags().items()
        for flag in _render(parser, key, value, knows_more_flags)
    ]
    _, unknown = _parse(parser, argv_flags)
    _refuse_unknown(parser, unknown, knows_more_flags)
    given = [*rendered, *beam.extra_flags, *argv_flags]
    # By Beam's own name, and last: others look it up, and Beam takes it in any spelling.
    defaults = [*_local_defaults(parser, given, runner), *_own_image(parser, given, runner_name)]
    flags = [*defaults, *given, f"--runner={runner_name}"]

    problems = _problems(PipelineOptions(flags), runner_name)
    if problems:
        raise RequestError("; ".join(problem.strip().rstrip(".") for problem in problems))
    return PipelineOptions(flags)


def _beam_parser() -> argparse.ArgumentParser:
    """The parser of every flag that Beam knows, runners' own included once they are loaded."""
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    parsers[0].exit_on_error = False
    return parsers[0]


def _parse(
    parser: argparse.ArgumentParser, flags: Sequence[str], source: str | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """What Beam makes of the flags, None where one is not given, and what it does not know."""
    nothing_given = argparse.Namespace(**{action.dest: None for action in parser._actions})
    try:
        return parser.parse_known_args(flags, nothing_given)
    except argparse.ArgumentError as error:
        name = source or error.argument_name
        reason = _reason(error.message)
        raise RequestError(f"{name}: {reason}" if name else reason) from error
    except (AttributeError, TypeError, ValueError) as error:
        # Some of Beam's flags hold JSON and do not expect that it may be none.
        raise RequestError(f"{source or 'a flag of Beam'}: {error}") from error


def _reason(message: str) -> str:
    if message.startswith("ignored explicit argument"):
        return "takes no value; give the flag alone or leave it out"
    if message == "expected one argument":
        return "needs a value"
    return re.sub(r"invalid (loads|<lambda>) value", "invalid JSON", message)


def _runner_name(beam: BeamConfig, argv_flags: Sequence[str]) -> str:
    """The runner's name as Beam spells it, or a dotted path."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runner")
    parsed, _ = _parse(parser, [*beam.extra_flags, *argv_flags])
    name = str(parsed.runner or beam.flags().get("runner") or DEFAULT_RUNNER)
    if "." in name:
        return name
    known = _RUNNER_NAMES.get(name.lower()) or _RUNNER_NAMES.get(f"{name.lower()}runner")
    if known:
        return known
    near = get_close_matches(name.lower(), _RUNNER_NAMES, 1)
    hint = f"did you mean {_RUNNER_NAMES[near[0]]}?" if near else f"use {_all_runners()}"
    raise RequestError(f"unknown runner {name!r}; {hint}")


def _all_runners() -> str:
    return ", ".join(name for name in _RUNNER_NAMES.values() if not name.startswith("Test"))


def _load_runner(name: str) -> PipelineRunner:
    try:
        return create_runner(name)
    except (ImportError, AttributeError, ValueError) as error:
        extra = " (pip install 'embed-images[gcp]')" if name in _DATAFLOW_RUNNERS else ""
        raise RequestError(f"the runner {name} cannot be loaded{extra}: {error}") from error


def _render(
    parser: argparse.ArgumentParser, key: str, value: BeamValue, knows_more_flags: bool
) -> list[str]:
    """One key of the `beam` section as flags."""
    action = parser._option_string_actions.get(f"--{key}")
    if action is None and isinstance(value, bool):
        # A key may be the positive side of a flag that says no: pipeline_type_check.
        action = next((each for each in parser._actions if each.dest == key), None)
    if action is None:
        if not knows_more_flags:
            near = nearest_flag(key, list(parser._option_string_actions), cutoff=0.6)
            hint = f"; did you mean beam.{near.strip('-')}?" if near else ""
            raise RequestError(
                f"beam.{key}: no flag of Beam{hint} (beam.extra_flags passes any flag)"
            )
        flags = _render_unknown(key, value)
    elif action.nargs == 0:
        flags = _render_switch(parser, action, key, value)
    elif isinstance(value, tuple):
        if len(value) != 1 and not _collects(action):
            raise RequestError(f"beam.{key}: {list(value)} is a list; this flag takes one value")
        flags = [f"--{key}={each}" for each in value]
    elif value == action.default and isinstance(value, bool):
        # Beam takes the text "False" of --dry_run=False for true.
        flags = []
    else:
        flags = [f"--{key}={value}"]
    _parse(parser, flags, source=f"beam.{key}")
    return flags


def _render_switch(
    parser: argparse.ArgumentParser, action: argparse.Action, key: str, value: BeamValue
) -> list[str]:
    if not isinstance(value, bool):
        raise RequestError(f"beam.{key}: {value!r} is not allowed; use true or false")
    # --no_use_public_ips stores False; as a key, true means that the flag is there.
    stored = value if key == action.dest else action.const if value else not action.const
    for each in parser._actions:
        if each.dest == action.dest and each.nargs == 0 and each.const is stored:
            return [each.option_strings[0]]
    if action.default is not None and action.default is not stored:
        raise RequestError(f"beam.{key}: Beam has no flag that makes it {str(stored).lower()}")
    return []


def _collects(action: argparse.Action) -> bool:
    """Whether a flag that is there several times keeps all of its values."""
    return type(action).__name__ != "_StoreAction"


def _render_unknown(key: str, value: BeamValue) -> list[str]:
    """For a job server, which takes a flag without a value for a switch."""
    if value is True:
        return [f"--{key}"]
    values = value if isinstance(value, tuple) else [value]
    return [f"--{key}={'false' if each is False else each}" for each in values]


def _local_defaults(
    parser: argparse.ArgumentParser, given: Sequence[str], runner: PipelineRunner
) -> list[str]:
    parsed, _ = _parse(parser, given)
    defaults = []
    if isinstance(runner, SwitchingDirectRunner) and not parsed.update_compatibility_version:
        # DirectRunner looks for a Prism to download, except where a compatibility version is
        # set; that of this very Beam changes nothing else.
        version = ".".join(apache_beam.__version__.split(".")[:2])
        defaults.append(f"--update_compatibility_version={version}.0")
    if isinstance(runner, (FnApiRunner, SwitchingDirectRunner)):
        defaults += _local_workers(parsed.direct_running_mode, parsed.direct_num_workers)
    return defaults


def _local_workers(mode: str | None, count: int | None) -> list[str]:
    """Return the flags that make the local engine use this machine, as far as not given.

    One worker in memory is the best: reading, decoding and the network have threads of their own
    (`decode_threads`), nothing goes through gRPC, and one batch is in the network at a time. Beside
    a worker for each of two processors it takes 0.94 of the processor time and 0.8 of the memory
    (MobileNet, 2,000 photographs of 500 x 375).
    """
    if mode is None:
        # More than one worker in memory would not run side by side.
        mode = "in_memory" if count in (None, 1) else "multi_threading"
        return [f"--direct_running_mode={mode}"]
    # Beam takes 0 for the number of processors.
    return ["--direct_num_workers=0"] if count is None and mode != "in_memory" else []


def decode_threads(options: PipelineOptions) -> int:
    """Return how many threads decode ahead in each thread of a worker, unless the user says it.

    As many as there are processors where one worker in memory does all the work. Other engines run
    bundles side by side, each of which decodes.
    """
    runner = create_runner(options.view_as(StandardOptions).runner or DEFAULT_RUNNER)
    is_local = isinstance(runner, (FnApiRunner, SwitchingDirectRunner))
    if not is_local or options.view_as(DirectOptions).direct_running_mode != "in_memory":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _own_image(
    parser: argparse.ArgumentParser, given: Sequence[str], runner_name: str
) -> list[str]:
    """For Dataflow's workers, the image that this process runs in, where nobody names one."""
    image = os.environ.get(IMAGE_VARIABLE)
    parsed, _ = _parse(parser, given)
    named = parsed.sdk_container_image or parsed.worker_harness_container_image
    if not image or named or runner_name not in _DATAFLOW_RUNNERS:
        return []
    return [f"--sdk_container_image={image}"]


def _refuse_unknown(
    parser: argparse.ArgumentParser, unknown: Sequence[str], knows_more_flags: bool
) -> None:
    for flag in flags_among(unknown, "every value needs its flag"):
        if knows_more_flags and flag.startswith("--"):
            continue
        known = [*run_flags(), *parser._option_string_actions]
        near = nearest_flag(flag, known, cutoff=0.6)
        hint = f"did you mean {near}?" if near else "neither we nor Beam have it"
        raise RequestError(f"unknown flag {flag}; {hint}")


def refuse_what_cannot_run(options: PipelineOptions, *, wait: bool) -> None:
    """Refuse runners and combinations that would accept the job and never finish it.

    Raises:
        RequestError: the runner cannot run the job, or its job server does not answer.
    """
    runner = options.view_as(StandardOptions).runner
    portable = options.view_as(PortableOptions)
    workers = options.view_as(DirectOptions).direct_num_workers
    if workers < 0:
        raise RequestError(f"--direct_num_workers is {workers}; use 0 for one a processor, or more")
    if runner == "BundleBasedDirectRunner":
        raise RequestError("BundleBasedDirectRunner cannot run this job; use DirectRunner")
    if not wait and portable.environment_type == "LOOPBACK":
        raise RequestError(
            "--no-wait ends this process, in which --environment_type=LOOPBACK would run the "
            "workers; leave one of them out"
        )
    endpoint = re.fullmatch(r"(?:\[?)([^\[\]/]+?)(?:\]?):(\d+)", portable.job_endpoint or "")
    if endpoint:
        try:
            socket.create_connection((endpoint[1], int(endpoint[2])), timeout=10).close()
        except OSError as error:
            raise RequestError(
                f"no job server answers at --job_endpoint={portable.job_endpoint}: {error}"
            ) from error


def workers_are_here(options: PipelineOptions) -> bool:
    """Return whether the workers run on this machine, in this process or beside it."""
    if options.view_as(PortableOptions).environment_type == "LOOPBACK":
        return True
    runner = create_runner(options.view_as(StandardOptions).runner)
    return isinstance(runner, (FnApiRunner, SwitchingDirectRunner))


def keep_local_engine_from_losing_data() -> None:
    """Have Beam's local engine flush its buffers by size only, never by time.

    With several threads or processes it hands elements on through buffers that a second thread
    empties once a second, without a lock, while the worker writes into them
    (TimeBasedBufferingClosableOutputStream in apache_beam/runners/worker/data_plane.py, 2.77).
    What is written in between is lost or cut: of 200,000 references, up to 1,100 were. Flushed
    by size, the writing thread does it itself. No option reaches this limit.
    """
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0


def _problems(options: PipelineOptions, runner_name: str) -> list[str]:
    """What Beam's validator has against the options; it changes them, so hand it a copy."""
    # With a runner, the validator would ask gcloud and Cloud Storage.
    validator = PipelineOptionsValidator(options, runner=None)
    problems: list[str] = validator.validate()
    if runner_name == "PortableRunner" and not options.view_as(PortableOptions).job_endpoint:
        problems.append("--runner=PortableRunner needs --job_endpoint")
    if runner_name not in _DATAFLOW_RUNNERS:
        return problems

    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    # Beam takes an endpoint with a port, but not this check of its own.
    cloud.dataflow_endpoint = re.sub(r":\d+/?$", "", cloud.dataflow_endpoint)
    given = {
        "--project": cloud.project,
        "--region": cloud.region or os.environ.get("CLOUDSDK_COMPUTE_REGION"),
        "--temp_location": cloud.temp_location or cloud.staging_location,
    }
    missing = [flag for flag, value in given.items() if not value]
    if missing:
        listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        problems.append(f"--runner={runner_name} needs {listed}")
    if cloud.project:
        problems += validator.validate_cloud_options(cloud)
    for location in ("temp_location", "staging_location"):
        if getattr(cloud, location):
            problems += validator.validate_gcs_path(cloud, location)
    problems += validator.validate_num_workers(workers)
    problems += validator.validate_worker_region_zone(workers)
    return problems
