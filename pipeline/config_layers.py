"""From defaults, a file, `--set` and flags to one `JobConfig`; each layer beats the former.

settings = [*settings_from_file("job.yaml"), setting_from_text("model.batch_size=16")]
config = resolve(settings)
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config import CURATED_FLAGS, SECTIONS, JobConfig, ModelJobConfig, allowed_values
from pipeline.yaml_text import YamlError, parse_yaml
from transforms.errors import RequestError

_Config = TypeVar("_Config", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key with its value, and who says so."""

    path: str
    """section.key"""
    value: object
    origin: str
    """A file, --set, or a flag: named in error messages."""


def settings_from_file(path: str) -> list[Setting]:
    """The settings of a YAML file.

    Raises:
        RequestError: the file cannot be read, is no YAML, holds a key twice, or a section is
            no mapping.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise RequestError(f"there is no configuration file {path}") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    try:
        document = parse_yaml(content)
    except YamlError as error:
        raise RequestError(f"{path}, {error}") from error
    if document is None:
        return []
    if not isinstance(document, Mapping):
        raise RequestError(f"{path} holds {document!r}; it needs sections: {', '.join(SECTIONS)}")
    settings: list[Setting] = []
    for section, keys in document.items():
        if isinstance(keys, Mapping):
            settings += [Setting(f"{section}.{key}", value, path) for key, value in keys.items()]
        elif keys is not None or section not in SECTIONS:
            settings.append(Setting(str(section), keys, path))
    return settings


def setting_from_text(text: str) -> Setting:
    """The setting in SECTION.KEY=VALUE, as `--set` takes it; the value is YAML.

    Raises:
        RequestError: the text has no "=", or its value is no YAML.

    Example:
        >>> setting_from_text("model.batch_size=16").value
        16
    """
    path, equals, value = text.partition("=")
    if not equals or "." not in path:
        raise RequestError(f"--set {text}: write it as SECTION.KEY=VALUE")
    try:
        return Setting(path.strip(), parse_yaml(value), "--set")
    except YamlError as error:
        raise RequestError(f"--set {text}: {error}") from error


def resolve(settings: Iterable[Setting]) -> JobConfig:
    """The configuration that the settings make; of two for one key the later counts.

    Raises:
        RequestError: unknown keys, wrong types or values, missing keys; every one of them in
            a line of its own, with the full key, the value, who said so, and what is allowed.
    """
    return _resolve(settings, JobConfig)


def resolve_without_paths(settings: Iterable[Setting]) -> JobConfig:
    """The configuration, for a command that may be asked before there is an input and an output.

    `input.patterns` is empty and `output.path` is "" where the settings do not name them.

    Raises:
        RequestError: see `resolve`; nothing is missing.
    """
    given = list(settings)
    named = {setting.path for setting in given}
    unnamed = [Setting("input.patterns", ["-"], ""), Setting("output.path", "-", "")]
    config = _resolve([*unnamed, *given], JobConfig)
    changes: dict[str, BaseModel] = {}
    if "input.patterns" not in named:
        changes["input"] = config.input.model_copy(update={"patterns": ()})
    if "output.path" not in named:
        changes["output"] = config.output.model_copy(update={"path": ""})
    return config.model_copy(update=changes)


def resolve_model_settings(settings: Iterable[Setting]) -> ModelJobConfig:
    """The sections `model` and `preprocess` that settings of these two make.

    Raises:
        RequestError: see `resolve`.
    """
    return _resolve(settings, ModelJobConfig)


def _resolve(settings: Iterable[Setting], kind: type[_Config]) -> _Config:
    last = {setting.path: setting for setting in settings}
    problems: list[str] = []
    sections: dict[str, dict[str, object]] = {section: {} for section in kind.model_fields}
    for setting in last.values():
        problem = _key_problem(setting)
        if problem:
            problems.append(f"{problem} ({setting.origin})")
        else:
            section, key = setting.path.split(".", 1)
            sections[section][key] = setting.value
    try:
        # Through JSON, because there a list is a tuple even where types are strict.
        config = kind.model_validate_json(json.dumps(sections, default=str))
    except ValidationError as error:
        problems += _value_problems(error, last)
    if problems:
        raise RequestError("\n  ".join(["wrong configuration:", *problems][len(problems) == 1 :]))
    return config


def _key_problem(setting: Setting) -> str | None:
    section, _, key = setting.path.partition(".")
    if section in SECTIONS and not key:
        return f"{section}: {setting.value!r} is no section; write its keys below it"
    if section == "beam":
        if key and key.replace("_", "").replace("-", "").isalnum() and key[0].isalpha():
            return None
        return f"{setting.path}: no name of a flag; write it without dashes before it"
    if section in SECTIONS and key in SECTIONS[section].model_fields:
        return None
    nearest = _nearest_key(setting.path)
    return f"{setting.path}: unknown key" + (f"; did you mean {nearest}?" if nearest else "")


def _nearest_key(path: str) -> str | None:
    known = [f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields]
    if "." not in path and (near := difflib.get_close_matches(path, SECTIONS, 1)):
        return near[0]
    last_part = path.rpartition(".")[2].replace("-", "_").lower()
    for candidate in known:
        if candidate.rpartition(".")[2] == last_part:
            return candidate
    near = difflib.get_close_matches(path, known, 1)
    return near[0] if near else None


def _value_problems(error: ValidationError, settings: Mapping[str, Setting]) -> list[str]:
    flags = {path: flag for flag, path in CURATED_FLAGS.items()}
    problems: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        section, *rest = (str(part) for part in detail["loc"])
        if not rest:
            # A section refuses a combination; its message begins with the key.
            message = f"{section}.{_reason(detail['msg'])}"
            problems.setdefault(section, message)
            continue
        path = f"{section}.{rest[0]}"
        if detail["type"] == "missing" and path not in settings:
            flag = f"with {flags[path]} or " if path in flags else ""
            problems[path] = f"{path} is missing; give it {flag}in a configuration file"
            continue
        setting = settings[path]
        if detail["type"] == "value_error":
            problem = f"{path}: {_reason(detail['msg'])}"
        else:
            problem = f"{path}: {_shown(setting.value)} is not allowed; use {_allowed(path)}"
        problems.setdefault(path, f"{problem} ({setting.origin})")
    return list(problems.values())


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")


def _allowed(path: str) -> str:
    section, key = path.split(".", 1)
    field = SECTIONS[section].model_fields.get(key)
    if field:
        return allowed_values(field)
    return "text, a whole number, true, false, null or a list of these, other numbers in quotes"


def _shown(value: object) -> str:
    """As YAML writes it where that is short and clear, else as Python does."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
