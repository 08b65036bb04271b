"""YAML text in and out, by the rules of YAML 1.2, which surprise less than those of 1.1.

`off`, `no` and `on` stay text, `1e-3` is a number, `2026-11-20` stays text, `010` stays
text, and a key that is there twice is an error (https://yaml.org/spec/1.2.2/#103-core-schema).
"""

import re
from collections.abc import Hashable

import yaml

_CORE_SCHEMA = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                problem = f"the key {key.value} is there already, in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[str(key.value)] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        if node in self.recursive_objects:
            problem = "an alias (*) stands inside what it repeats; write the value out"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        # Deep, so that what an alias repeats is complete by then, or else is around it.
        return super().construct_object(node, deep=True)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for something else than text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))


class YamlError(ValueError):
    """The text is no YAML; the message says where and why, in one line."""


def parse_yaml(text: str | bytes) -> object:
    """What the text holds: dictionaries, lists, text, numbers, booleans or None.

    Raises:
        YamlError: the text is no YAML, a mapping holds a key twice, or a value holds itself. The
            message begins with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(where + (error.problem or error.context or "no YAML")) from error
    except RecursionError as error:
        raise YamlError("lists or mappings lie too deep inside each other") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(" ".join(str(error).split())) from error


def format_yaml(data: object) -> str:
    """The data as YAML in block style, keys in their order; `parse_yaml` gives it back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
