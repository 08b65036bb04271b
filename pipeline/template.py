"""The Flex Template: its parameters, and from a launch's parameters to the command line of `run`.

Dataflow hands the parameters of a launch to the launcher as `--name=value`, all of them text, and
without a command. `make template` writes `deploy/metadata.json`, which tells Dataflow of them.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pipeline.command_line import run_flag_texts
from pipeline.config import CURATED_FLAGS, SECTIONS, ConfigKey, config_keys
from pipeline.flags import KEY_SWITCHES

#: Flags of `run` that are no parameters, and why not.
NOT_PARAMETERS = {
    "--no-wait": "a launcher leaves after submission, always",
    "--print-config": "a launcher that submits nothing has failed",
}

# What values look like, for Dataflow to refuse others before it starts a machine: extended
# regular expressions of POSIX, which know neither \d nor (?:.
_BOOLEAN = "[Tt]rue|[Ff]alse"
# Without zeros in front, with which YAML takes a number for an octal one, or for text.
_WHOLE_NUMBER = "0|[1-9][0-9]*"
_NUMBER = "-?((0|[1-9][0-9]*)([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?"

_OF_LISTS = r"Several are separated by commas; inside of one, \, is a comma and \\ a backslash."


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the template: a flag of `run`, or a key of the configuration."""

    name: str
    """Small letters and underscores: dots and dashes are not taken everywhere."""
    label: str
    """The flag with its dashes, or the key, section.key."""
    text: str
    """What it is for."""
    pattern: str | None
    """What a value looks like, of a list each of them; None: any text."""
    is_list: bool = False
    nullable: bool = False
    required: bool = False

    def metadata(self) -> dict[str, Any]:
        """Return what Dataflow wants to know of it.

        No default and no type are among it: the console would fill in defaults and send unticked
        boxes, and both would beat the file that `config` names. The fields are those of
        https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates#metadata
        """
        described = {
            "name": self.name,
            "label": self.label,
            "helpText": f"{self.text} {_OF_LISTS}" if self.is_list else self.text,
            "isOptional": not self.required,
        }
        if self.pattern is None:
            return described
        values = f"({self.pattern})( *, *({self.pattern}))*" if self.is_list else self.pattern
        return {**described, "regexes": [f"^({values}{'|null' if self.nullable else ''})$"]}

    def arguments(self, value: str) -> list[str]:
        """Return the arguments of `run` that say this value; none for an empty one.

        Example:
            >>> size = next(each for each in parameters() if each.name == "preprocess_size")
            >>> size.arguments("224,224")
            ['--set=preprocess.size=[224, 224]']
        """
        if not value:
            return []
        if self.label.startswith("--"):
            values = split_list(value) if self.is_list else [value]
            return [f"{self.label}={each}" for each in values]
        return [f"--set={self.label}={self._yaml(value)}"]

    def _yaml(self, value: str) -> str:
        if self.nullable and value == "null":
            return value
        if self.is_list:
            return f"[{', '.join(map(self._yaml_of_one, split_list(value)))}]"
        return self._yaml_of_one(value)

    def _yaml_of_one(self, value: str) -> str:
        if self.pattern == _BOOLEAN:
            return value.lower()
        if self.pattern in (_WHOLE_NUMBER, _NUMBER):
            return value
        # All JSON is YAML; quoted, 007 and null stay text.
        return json.dumps(value, ensure_ascii=False)


#: What flags take, where it is not any text.
_FLAG_PATTERNS = {
    **dict.fromkeys((*KEY_SWITCHES, "--verbose"), _BOOLEAN),
    "--max-failure-ratio": _NUMBER,
}
#: Flags that may be there several times.
_REPEATABLE = ("--input", "--output", "--config", "--set")


def parameters() -> Iterator[Parameter]:
    """Yield every parameter: the flags of `run`, then the keys that have no flag of their own.

    Example:
        >>> [each.name for each in parameters()][:3]
        ['input', 'input_query', 'output']
    """
    for flag, text in run_flag_texts().items():
        if flag not in NOT_PARAMETERS:
            name = flag.strip("-").replace("-", "_")
            yield Parameter(name, flag, text, _FLAG_PATTERNS.get(flag), is_list=flag in _REPEATABLE)
    for key in config_keys():
        if key.path not in CURATED_FLAGS.values():
            yield _of_key(key)


def _of_key(key: ConfigKey) -> Parameter:
    section, _, name = key.path.partition(".")
    pattern, is_list, nullable = _shape(SECTIONS[section].model_fields[name].annotation)
    default = "" if key.required else f" Default: {json.dumps(key.default)}."
    return Parameter(
        name=key.path.replace(".", "_"),
        label=key.path,
        text=f"{key.description} Takes {key.allowed}.{default}",
        pattern=pattern,
        is_list=is_list,
        nullable=nullable,
        required=key.required,
    )


def _shape(annotation: Any) -> tuple[str | None, bool, bool]:
    """Return the pattern of one value, whether it is a list, and whether null is allowed."""
    kinds = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _shape(kinds[0])
    if NoneType in kinds:
        (kind,) = (each for each in kinds if each is not NoneType)
        pattern, is_list, _ = _shape(kind)
        return pattern, is_list, True
    if get_origin(annotation) is tuple:
        return _shape(kinds[0])[0], True, False
    if get_origin(annotation) is Literal:
        return "|".join(kinds), False, False
    patterns = {bool: _BOOLEAN, int: _WHOLE_NUMBER, float: _NUMBER, str: None}
    return patterns[annotation], False, False


def run_arguments(launched_with: Sequence[str]) -> list[str]:
    """Return the command line of the job that a launcher was started for.

    What is no parameter of ours goes on to Beam as it is: the launcher adds such flags itself,
    --runner, --project and --template_location among them. The libraries' lines go into the
    launcher's log, which is the only one that there is, unless `verbose` is false.

    Args:
        launched_with: `--name=value` each.

    Example:
        >>> run_arguments(["--input=gs://b/a,gs://b/c", "--prune=True", "--region=europe-west4"])
        ... # doctest: +NORMALIZE_WHITESPACE
        ['run', '--no-wait', '--verbose=true', '--input=gs://b/a', '--input=gs://b/c',
         '--prune=True', '--region=europe-west4']
    """
    ours = {each.name: each for each in parameters()}
    arguments, keys, rest = ["--no-wait", "--verbose=true"], [], []
    for argument in launched_with:
        name, equals, value = argument.removeprefix("--").partition("=")
        if name not in ours or not equals or not argument.startswith("--"):
            rest.append(argument)
        elif ours[name].label.startswith("--"):
            arguments += ours[name].arguments(value)
        else:
            keys += ours[name].arguments(value)
    # A parameter of a key beats the same key in the parameter `set`.
    return ["run", *arguments, *keys, *rest]


def split_list(text: str) -> list[str]:
    r"""Return the values of a list: between commas, without the blanks around them.

    Example:
        >>> split_list(r"photos/, more/a\,b.jpg")
        ['photos/', 'more/a,b.jpg']
    """
    values = [""]
    for part in re.findall(r"\\[\\,]|[^\\,]+|\\|,", text):
        if part == ",":
            values.append("")
        else:
            values[-1] += part[1:] if part in ("\\\\", "\\,") else part
    return [value.strip() for value in values]


def metadata() -> dict[str, Any]:
    """Return the template's metadata, which `gcloud dataflow flex-template build` takes."""
    return {
        "name": "embed-images",
        "description": "Turn a bucket of images into embeddings by a TF Hub image model.",
        "parameters": [each.metadata() for each in parameters()],
    }


if __name__ == "__main__":
    json.dump(metadata(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
