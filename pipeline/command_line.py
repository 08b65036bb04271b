"""The flags of the command, read without Beam: what is ours, and what is left for Beam.

A mistyped flag of ours is refused here, at once. What is near none of ours is taken for a
flag of Beam, and `pipeline.options` has the last word on it.
"""

import argparse
import difflib
import importlib.metadata
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.config import CURATED_FLAGS, config_keys
from pipeline.config_layers import Setting, setting_from_text, settings_from_file
from pipeline.yaml_text import YamlError, parse_yaml
from transforms.errors import RequestError

PROGRAM = "embed-images"

_TOP_DESCRIPTION = "Turn a bucket or a folder of images into embeddings, on Apache Beam."

_TOP_EPILOG = f"""\
examples:
  {PROGRAM} run --input photos/ --output embeddings/
  {PROGRAM} run --help"""

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
  On Dataflow:
    {program} run --input 'gs://bucket/photos/**' --output gs://bucket/embeddings \\
        --runner=DataflowRunner --project=PROJECT --region=europe-west4 \\
        --temp_location=gs://bucket/tmp

configuration keys (for --config and --set; a later one beats a former: defaults, --config,
--set, flags):
{keys}
  beam.FLAG
      Any flag of Beam: beam.runner, beam.project, ...

exit status: 0 done, 1 the job failed, 2 the request was wrong."""


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


_SWITCHES = ("--overwrite", "--verbose", "--no-wait", "--print-config")


class _Parser(argparse.ArgumentParser):
    """Reports an error as a RequestError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        flag = re.match(r"argument (\S+): expected one argument", message)
        if flag:
            raise RequestError(f"{flag[1]} needs a value: {flag[1]}=VALUE")
        raise RequestError(message.removeprefix("argument "))


def parse_command_line(arguments: Sequence[str]) -> RunRequest:
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
    command = arguments[0] if arguments else ""
    if command == "run":
        return _parse_run(arguments[1:])
    if command in ("-h", "--help", "--version"):
        _top_parser().parse_args([command])
    if not command:
        raise RequestError(f"a command is missing: {PROGRAM} run --input ... --output ...")
    if command.startswith("-"):
        raise RequestError(f"{command} comes before the command; write {PROGRAM} run {command} ...")
    near = difflib.get_close_matches(command, ["run"], 1)
    raise RequestError(
        f"unknown command {command!r}; " + ("did you mean run?" if near else "use run")
    )


def nearest_flag(flag: str, known: Sequence[str], cutoff: float = 0.8) -> str | None:
    """The known flag that the given one was most likely meant to be, or None.

    Dashes count as underscores, and the beginning of a flag (at least three letters of it)
    as the flag.
    """
    plain = {each.strip("-").replace("-", "_").lower(): each for each in known}
    wanted = flag.strip("-").replace("-", "_").lower()
    beginnings = [name for name in plain if len(wanted) > 2 and name.startswith(wanted)]
    near = beginnings or difflib.get_close_matches(wanted, plain, 1, cutoff)
    return plain[near[0]] if near else None


def run_flags() -> list[str]:
    """Every flag of `run` that is ours, with its dashes."""
    return [name for action in _run_parser()._actions for name in action.option_strings]


def _top_parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description=_TOP_DESCRIPTION,
        epilog=_TOP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = importlib.metadata.version("embed-images")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("run", help="embed images")
    return parser


def _run_parser() -> _Parser:
    parser = _Parser(
        prog=f"{PROGRAM} run",
        usage=f"{PROGRAM} run --input PATTERN --output PATH [flags] [flags of Beam]",
        description="Embed images: one vector an image, written as TFRecords.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=_RUN_EPILOG.format(program=PROGRAM, keys=_keys_in_words()),
    )
    about = {key.path: key for key in config_keys()}

    def add(flag: str, metavar: str, **settings: object) -> None:
        key = about[CURATED_FLAGS[flag]]
        text = f"{key.description} ({key.path})".replace("%", "%%")
        parser.add_argument(flag, metavar=metavar, help=text, **settings)  # type: ignore[arg-type]

    def add_switch(flag: str, text: str) -> None:
        parser.add_argument(flag, nargs="?", const="true", metavar="true|false", help=text)

    add("--input", "PATTERN", action="append")
    add("--output", "PATH")
    add("--model", "HANDLE")
    add("--overwrite", "true|false", nargs="?", const="true")
    add("--max-failure-ratio", "RATIO")
    parser.add_argument("--config", metavar="FILE", help="A YAML file with configuration keys.")
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="One configuration key; repeat it for more.",
    )
    add_switch("--verbose", "Show what Beam and TensorFlow log, too.")
    add_switch("--no-wait", "Return as soon as the job is submitted.")
    add_switch("--print-config", "Print the resolved configuration as YAML, and end.")
    return parser


def _keys_in_words() -> str:
    wrapper = textwrap.TextWrapper(
        width=96,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = []
    for key in config_keys():
        default = "Required." if key.required else f"Default: {json.dumps(key.default)}"
        lines.append(f"  {key.path}: {key.allowed}")
        lines += [*wrapper.wrap(key.description), *wrapper.wrap(default)]
    return "\n".join(lines)


def _parse_run(arguments: Sequence[str]) -> RunRequest:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{argument!r} is no valid UTF-8; name the folder above it, or list it in a file"
            ) from error
    # Alone, a switch would take the next word for its value.
    arguments = [f"{word}=true" if word in _SWITCHES else word for word in arguments]
    if "--" in arguments:
        raise RequestError("'--' is not needed; write flags of Beam like ours")
    parsed, rest = _run_parser().parse_known_args(arguments)
    _refuse_what_no_flag_of_beam_can_be(rest)

    settings: list[Setting] = []
    if parsed.config is not None:
        settings += settings_from_file(parsed.config)
    settings += [setting_from_text(text) for text in parsed.set]
    for flag, path in CURATED_FLAGS.items():
        value = getattr(parsed, flag.strip("-").replace("-", "_"))
        if value is None:
            continue
        if flag == "--overwrite":
            value = _switch(flag, value)
        elif flag == "--max-failure-ratio":
            value = _number(flag, value)
        settings.append(Setting(path, value, flag))
    return RunRequest(
        settings=tuple(settings),
        beam_flags=tuple(rest),
        verbose=_switch("--verbose", parsed.verbose),
        wait=not _switch("--no-wait", parsed.no_wait),
        print_config=_switch("--print-config", parsed.print_config),
    )


def _switch(flag: str, value: str | None) -> bool:
    if value is None:
        return False
    if value.lower() not in ("true", "false"):
        raise RequestError(f"{flag} is {value!r}; use {flag}, {flag}=true or {flag}=false")
    return value.lower() == "true"


def _number(flag: str, value: str) -> object:
    try:
        return parse_yaml(value)
    except YamlError as error:
        raise RequestError(f"{flag} is {value!r}; use a number") from error


def _refuse_what_no_flag_of_beam_can_be(rest: Sequence[str]) -> None:
    takes_value = False
    for argument in rest:
        if re.fullmatch(r"-[\d.]+", argument) or not argument.startswith("-"):
            if not takes_value:
                raise RequestError(
                    f"unexpected argument {argument!r}; every image, folder or pattern needs its "
                    "own --input, and a pattern needs quotes to reach this command whole"
                )
            takes_value = False
            continue
        flag, equals, _ = argument.partition("=")
        near = nearest_flag(flag, run_flags())
        if near:
            raise RequestError(f"unknown flag {flag}; did you mean {near}?")
        if not flag.startswith("--"):
            raise RequestError(f"unknown flag {flag}; flags begin with two dashes")
        takes_value = not equals
