"""What the commands share in reading their flags: the parser, settings from flags, near names."""

import argparse
import difflib
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

from pipeline.config import CURATED_FLAGS, TABLE_PREFIX, config_keys
from pipeline.config_layers import Setting, setting_from_text, settings_from_file
from pipeline.yaml_text import YamlError, parse_yaml
from transforms.errors import RequestError

PROGRAM = "embed-images"

#: The flags of `CURATED_FLAGS` that stand alone.
KEY_SWITCHES = ("--overwrite", "--incremental", "--prune", "--allow-other-models")

#: Those of `CURATED_FLAGS` in the order of the help, with what stands for their values there.
_JOB_FLAGS = {
    "--input": "PATTERN",
    "--input-query": "SQL",
    "--output": "PATH",
    "--model": "HANDLE",
    **dict.fromkeys(KEY_SWITCHES, "true|false"),
    "--max-failure-ratio": "RATIO",
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; it reports an error as a RequestError, without its usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )

    def error(self, message: str) -> NoReturn:
        """Raise a RequestError with argparse's message, or with a shorter one."""
        flag = re.match(r"argument (\S+): expected one argument", message)
        if flag:
            raise RequestError(f"{flag[1]} needs a value: {flag[1]}=VALUE")
        missing = re.match(r"the following arguments are required: (.+)", message)
        if missing:
            raise RequestError(f"{missing[1]} is missing; see {self.prog} --help")
        raise RequestError(message.removeprefix("argument "))

    def own_flags(self) -> list[str]:
        """Return every flag, with its dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def flag_texts(self) -> dict[str, str]:
        """Return every flag that says what to do, with its dashes, and its line in the help."""
        return {
            name: (action.help or "").replace("%%", "%")
            for action in self._actions
            for name in action.option_strings
            if action.dest != "help"
        }

    def add_switch(self, flag: str, text: str) -> None:
        """Add a flag that stands alone, or with true or false; read it with `switch`."""
        self.add_argument(flag, nargs="?", const="true", metavar="true|false", help=text)

    def add_key(self, flag: str, metavar: str, **settings: Any) -> None:
        """Add a flag of `CURATED_FLAGS`, with the description of its key."""
        key = next(key for key in config_keys() if key.path == CURATED_FLAGS[flag])
        text = f"{key.description} ({key.path})".replace("%", "%%")
        if flag in KEY_SWITCHES:
            settings |= {"nargs": "?", "const": "true"}
        self.add_argument(flag, metavar=metavar, help=text, **settings)

    def add_job_flags(self, *without: str) -> None:
        """Add the flags that say what a job is, but for some."""
        for flag, metavar in _JOB_FLAGS.items():
            if flag not in without:
                several = flag in ("--input", "--output")
                self.add_key(flag, metavar, **({"action": "append"} if several else {}))
        self.add_config()
        self.add_set()

    def add_run_switches(self) -> None:
        """Add the switches of a command that runs a job."""
        self.add_switch("--verbose", "Show what Beam and TensorFlow log, too.")
        self.add_switch("--no-wait", "Return as soon as the job is submitted.")
        self.add_switch("--print-config", "Print the resolved configuration as YAML, and end.")

    def add_set(self) -> None:
        """Add --set."""
        self.add_argument(
            "--set",
            metavar="SECTION.KEY=VALUE",
            action="append",
            default=[],
            help="One configuration key; repeat it for more.",
        )

    def add_config(self) -> None:
        """Add --config."""
        self.add_argument(
            "--config",
            metavar="FILE",
            action="append",
            default=[],
            help="A YAML file with configuration keys; of several, a later one beats a former.",
        )

    def with_joined_switches(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments with "=true" behind each switch that stands alone.

        Otherwise it would take the next word for its value.
        """
        switches = [name for i in self._actions if i.nargs == "?" for name in i.option_strings]
        return [f"{each}=true" if each in switches else each for each in arguments]

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments of a command that takes no flags but its own.

        A switch takes no value but one behind "=": the next argument may be a positional one.

        Raises:
            RequestError: an unknown flag, a flag without its value, too few or many arguments.
        """
        for argument in arguments:
            flag = argument.partition("=")[0]
            if argument.startswith("-") and flag not in self.own_flags():
                near = nearest_flag(flag, self.own_flags(), cutoff=0.6)
                hint = f"did you mean {near}?" if near else f"{self.prog} --help lists them all"
                raise RequestError(f"unknown flag {flag}; {hint}")
        parsed, rest = self.parse_known_args(self.with_joined_switches(arguments))
        if rest:
            raise RequestError(f"unexpected argument {rest[0]!r}; see {self.prog} --help")
        return parsed

    def parse_with_beam_flags(
        self, arguments: Sequence[str], stray: str
    ) -> tuple[argparse.Namespace, tuple[str, ...]]:
        """Return the parsed arguments, and those that may be flags of Beam.

        Args:
            arguments: without the program and the command.
            stray: what to do about a word that no flag stands before, for the message.

        Raises:
            RequestError: a flag that is near one of ours, one without its value, a stray word.
        """
        if "--" in arguments:
            raise RequestError("'--' is not needed; write flags of Beam like ours")
        parsed, rest = self.parse_known_args(self.with_joined_switches(arguments))
        for flag in flags_among(rest, stray):
            near = nearest_flag(flag, self.own_flags())
            if near:
                raise RequestError(f"unknown flag {flag}; did you mean {near}?")
            if not flag.startswith("--"):
                raise RequestError(f"unknown flag {flag}; flags begin with two dashes")
        return parsed, tuple(rest)


def flags_among(arguments: Sequence[str], stray: str) -> Iterator[str]:
    """Yield the flags among arguments that a parser left over, without their values.

    Args:
        arguments: flags, each joined to its value by "=" or followed by it, if it has one.
        stray: what to do about a word that no flag stands before, for the message.

    Raises:
        RequestError: there is such a word.

    Example:
        >>> list(flags_among(["--a=1", "--b", "-2", "--c"], stray="join it to its flag"))
        ['--a', '--b', '--c']
    """
    takes_value = False
    for argument in arguments:
        if argument.startswith("-") and not re.fullmatch(r"-[\d.]+", argument):
            flag, equals, _ = argument.partition("=")
            takes_value = not equals
            yield flag
        elif takes_value:
            takes_value = False
        else:
            raise RequestError(f"unexpected argument {argument!r}; {stray}")


def given_settings(parsed: argparse.Namespace) -> list[Setting]:
    """Return the settings of --config, of --set and of the flags, in the order that counts.

    Raises:
        RequestError: the file or a value cannot be read.
    """
    settings = [setting for file in parsed.config for setting in settings_from_file(file)]
    settings += [setting_from_text(text) for text in parsed.set]
    for flag, path in CURATED_FLAGS.items():
        # Some commands leave a flag out.
        value = getattr(parsed, flag.strip("-").replace("-", "_"), None)
        if value is None:
            continue
        if flag == "--output":
            settings += _output_settings(flag, value)
            continue
        if flag in KEY_SWITCHES:
            value = switch(flag, value)
        elif flag == "--max-failure-ratio":
            value = _number(flag, value)
        settings.append(Setting(path, value, flag))
    return settings


def _output_settings(flag: str, values: Sequence[str]) -> Iterator[Setting]:
    for path, kind, named in (
        ("output.path", "folder", [each for each in values if not is_table(each)]),
        ("output.table", "table", [each for each in values if is_table(each)]),
    ):
        if len(named) > 1:
            raise RequestError(f"{flag} names {len(named)} {kind}s, {' and '.join(named)}; use one")
        for value in named:
            yield Setting(path, value.removeprefix(TABLE_PREFIX), flag)


def is_table(location: str) -> bool:
    """Return whether an input or output is a BigQuery table, bq://..."""
    return location.startswith(TABLE_PREFIX)


def switch(flag: str, value: str | None) -> bool:
    """Return what a flag of `add_switch` says; False where it is not there.

    Raises:
        RequestError: it is neither true nor false.
    """
    if value is None:
        return False
    if value.lower() not in ("true", "false"):
        raise RequestError(f"{flag} is {value!r}; use {flag}, {flag}=true or {flag}=false")
    return value.lower() == "true"


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


def keys_in_words(sections: Collection[str], *without: str) -> str:
    """Return the configuration keys of these sections, but for some, for a help text."""
    wrapper = textwrap.TextWrapper(
        width=96,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = []
    for key in config_keys():
        if key.path.partition(".")[0] in sections and key.path not in without:
            default = "Required." if key.required else f"Default: {json.dumps(key.default)}"
            lines.append(f"  {key.path}: {key.allowed}")
            lines += [*wrapper.wrap(key.description), *wrapper.wrap(default)]
    return "\n".join(lines)


def _number(flag: str, value: str) -> object:
    try:
        return parse_yaml(value)
    except YamlError as error:
        raise RequestError(f"{flag} is {value!r}; use a number") from error
