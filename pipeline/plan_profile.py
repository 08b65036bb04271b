"""The profile of `plan`: prices, kinds of machines and rates, each with its source.

The default one is a file of this package, so that an installed command finds it.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.yaml_text import YamlError, parse_yaml
from transforms.errors import RequestError

DEFAULT_PROFILE = Path(__file__).with_name("plan_profile.yaml")

# Far beyond any machine, and so near that no product or quotient of them is infinite or zero.
Text = Annotated[str, Field(min_length=1)]
Usd = Annotated[float, Field(ge=0, le=1e6)]
Gigabytes = Annotated[float, Field(ge=0, le=1e6)]
Hours = Annotated[float, Field(ge=0.001, le=1e6)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
_SLOWEST, _FASTEST = 1e-6, 1e9


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Rate(_Part):
    """Images a second, and how that is known."""

    images_per_second: Annotated[float, Field(gt=0)]
    kind: Literal["measured", "published", "derived"]
    source: Text


def _credible(rate: Rate) -> Rate:
    if not _SLOWEST <= rate.images_per_second <= _FASTEST:
        raise ValueError(
            f"images_per_second: {rate.images_per_second} is not allowed: input should be from "
            f"{_SLOWEST:g} to {_FASTEST:g}"
        )
    return rate


KnownRate = Annotated[Rate, AfterValidator(_credible)]
"""One that a profile holds; what is measured or derived is whatever it is."""


class Prices(_Part):
    """USD an hour of what every worker has, in one region."""

    region: Text
    source: Text
    read_on: Text
    vcpu_hour: Usd
    memory_gb_hour: Usd
    disk_gb_hour: Usd


class Here(_Part):
    """The machine that the plan runs on; a rate that is None is measured."""

    usd_hour: Usd | None = None
    decode: KnownRate | None = None
    """Of one processor thread."""
    inference: KnownRate | None = None
    """Of the whole machine."""


class MachineKind(_Part):
    """A kind of worker."""

    config: Text
    """The configuration that asks for it."""
    machine_type: Text
    vcpus: Count
    memory_gb: Annotated[Gigabytes, Field(gt=0)]
    disk_gb: Gigabytes
    gpu: Text | None = None
    gpu_hour: Usd | None = None
    """USD; None with a GPU: the price of the machine is unknown."""
    batch_size: Count
    max_workers: Count
    decode: KnownRate | None = None
    """Of one vCPU; None: as a processor thread of this machine."""
    inference: KnownRate | None = None
    """Of the GPU, or of all vCPUs where there is none."""

    @model_validator(mode="after")
    def _price_only_what_is_there(self) -> Self:
        if self.gpu is None and self.gpu_hour is not None:
            raise ValueError(f"gpu_hour is {self.gpu_hour}, but gpu is null; name the GPU")
        return self

    def usd_hour(self, prices: Prices) -> float | None:
        """Return what an hour of one such worker costs; None where a price is unknown.

        Example:
            >>> prices = Prices(region="r", source="s", read_on="d", vcpu_hour=0.05,
            ...     memory_gb_hour=0.01, disk_gb_hour=0.0)
            >>> MachineKind(config="c", machine_type="m", vcpus=8, memory_gb=30.0, disk_gb=100.0,
            ...     batch_size=1, max_workers=1).usd_hour(prices)
            0.7
        """
        if self.gpu is not None and self.gpu_hour is None:
            return None
        return (
            self.vcpus * prices.vcpu_hour
            + self.memory_gb * prices.memory_gb_hour
            + self.disk_gb * prices.disk_gb_hour
            + (self.gpu_hour or 0.0)
        )


class PlanProfile(_Part):
    """All that `plan` reckons with, besides what it sees and measures."""

    target_hours: Hours
    prices: Prices
    here: Here = Here()
    machines: dict[str, MachineKind]


def default_profile_text() -> str:
    """Return the default profile as it stands in its file, comments included."""
    return DEFAULT_PROFILE.read_text(encoding="utf-8")


def load_profile(path: str | None) -> PlanProfile:
    """Return the profile of a file; None: the default one.

    Raises:
        RequestError: the file cannot be read, is no YAML, or holds a wrong key or value; every
            one of them in a line of its own, with the full key.

    Example:
        >>> load_profile(None).machines["t4"].machine_type
        'n1-standard-8'
    """
    name = path or DEFAULT_PROFILE.name
    try:
        document = parse_yaml(Path(path).read_bytes() if path else default_profile_text())
    except FileNotFoundError as error:
        raise RequestError(f"--profile: there is no file {path}") from error
    except OSError as error:
        raise RequestError(f"--profile: {path} cannot be read: {error.strerror}") from error
    except YamlError as error:
        raise RequestError(f"--profile: {path}, {error}") from error
    if not isinstance(document, dict):
        sections = ", ".join(PlanProfile.model_fields)
        raise RequestError(f"--profile: {path} holds {document!r}; it needs the keys {sections}")
    try:
        # Through JSON, where a key is text and an integer may stand for a number.
        text = json.dumps(document, default=str)
    except (TypeError, ValueError) as error:
        raise RequestError(f"--profile: {path} holds what no profile does: {error}") from error
    try:
        return PlanProfile.model_validate_json(text)
    except ValidationError as error:
        problems = [f"{problem} ({name})" for problem in _problems(error)]
        lines = [f"--profile: {problems[0]}"] if len(problems) == 1 else ["--profile:", *problems]
        raise RequestError("\n  ".join(lines)) from error


def _problems(error: ValidationError) -> list[str]:
    details = error.errors(include_url=False)
    meant = {
        _nearest([str(part) for part in each["loc"]])
        for each in details
        if each["type"] == "extra_forbidden"
    }
    return [
        _problem([str(part) for part in each["loc"]], dict(each))
        for each in details
        # The key that was mistyped is not missing besides.
        if not (each["type"] == "missing" and ".".join(map(str, each["loc"])) in meant)
    ]


def _problem(parts: Sequence[str], detail: dict[str, Any]) -> str:
    path = ".".join(parts)
    if detail["type"] == "json_invalid":
        return f"it holds what no profile does: {detail['msg']}"
    if detail["type"] == "extra_forbidden":
        near = _nearest(parts)
        return f"{path}: unknown key; " + (f"did you mean {near}?" if near else "leave it out")
    if detail["type"] == "missing":
        return f"{path} is missing; embed-images plan --print-profile shows how it is written"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{path}.{reason}"
    return f"{path}: {detail['input']!r} is not allowed: {reason[:1].lower()}{reason[1:]}"


def _nearest(parts: Sequence[str]) -> str | None:
    """Return the known key, in full, that is most like an unknown one."""
    near = difflib.get_close_matches(parts[-1], _fields(parts[:-1]), 1)
    return ".".join([*parts[:-1], *near]) if near else None


def _fields(path: Sequence[str]) -> list[str]:
    """Return the keys that the profile knows below a path."""
    kind: Any = PlanProfile
    for part in path:
        if get_origin(kind) is dict:
            _, kind = get_args(kind)
        else:
            kind = kind.model_fields[part].annotation
            kinds = get_args(kind)
            kind = kinds[0] if NoneType in kinds else kind
    return list(kind.model_fields)
