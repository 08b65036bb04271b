"""The one configuration of a job: frozen, validated, and the same in a file as in code.

`pipeline.config_layers` makes one from files, `--set` and flags; every key is documented
once, here, and `config_keys` hands that to `--help` and to the documentation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from pipeline.yaml_text import format_yaml
from transforms.records import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    Fit,
    GpuUse,
    Kernel,
    Orientation,
    Preprocessing,
    ScaledDecoding,
)

#: The flags of the command that are a configuration key under a shorter name.
CURATED_FLAGS = {
    "--input": "input.patterns",
    "--input-query": "input.query",
    "--output": "output.path",
    "--model": "model.handle",
    "--overwrite": "output.overwrite",
    "--incremental": "output.incremental",
    "--prune": "output.prune",
    "--allow-other-models": "output.allow_other_models",
    "--max-failure-ratio": "failures.max_ratio",
}

#: What --output begins with where it names a BigQuery table, `output.table`.
TABLE_PREFIX = "bq://"
#: What an input begins with whose images lie inside TFRecords.
EXAMPLES_PREFIX = "tfrecord:"

_DEFAULT_PREPROCESSING = Preprocessing(height=1, width=1)

Side = Annotated[int, Field(ge=1)]
ColorValue = Annotated[int, Field(ge=0, le=255)]
Text = Annotated[str, Field(min_length=1)]
WrittenOutput = Literal["embedding", "logits", "top_classes"]
FileFormat = Literal["tfrecord", "parquet"]
# No float: Beam would read the `flink_version: 1.20` of a YAML file as 1.2.
BeamValue = bool | int | str | None | tuple[bool | int | str, ...]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there {names.count(name)} times; name it once")
    return names


class InputConfig(_Section):
    """Which images the job reads."""

    patterns: tuple[Text, ...] = Field(
        default=(),
        description="Files, folders, globs with **, gs:// patterns, http(s) URLs, @list.txt with "
        "one URI a line, a manifest as @file.csv, .jsonl or .parquet, a BigQuery table as "
        "bq://PROJECT.DATASET.TABLE, or TFRecords with image/encoded as tfrecord:PATTERN.",
    )
    query: Text | None = Field(
        default=None,
        description="A BigQuery query that gives URIs, and columns to carry along.",
    )
    query_dataset: Text | None = Field(
        default=None,
        description="PROJECT.DATASET for the rows of a table or query while the job reads them; "
        "null: that of output.table, else that of the input table.",
    )
    uri_column: Text = Field(
        default="uri", description="The column of manifests, tables and queries with the URIs."
    )
    carry: tuple[Text, ...] = Field(
        default=(),
        description="Columns of manifests, tables and queries that go along into every output, "
        "as name or name:type; the type is string (the default), int64, float64 or bool.",
    )
    extensions: tuple[str, ...] = Field(
        default=IMAGE_EXTENSIONS,
        min_length=1,
        description='Which files of a folder count as images, in any case; "" stands for files '
        "without an extension. A file or a glob that is named counts always.",
    )
    max_bytes: int = Field(
        default=DEFAULT_MAX_BYTES, ge=1, description="A larger file is a dead letter, unread."
    )
    max_pixels: int = Field(
        default=DEFAULT_MAX_PIXELS,
        ge=1,
        le=2 * DEFAULT_MAX_PIXELS,
        description="An image of more pixels is a dead letter, undecoded.",
    )
    http_timeout_seconds: float = Field(
        default=60.0,
        ge=1,
        description="The most seconds that fetching one http(s) URL may take, further attempts "
        "included; then it is a dead letter.",
    )
    allow_private_addresses: bool = Field(
        default=False,
        description="Whether http(s) URLs may lead to private, loopback and other addresses that "
        "are not public.",
    )

    @field_validator("extensions")
    @classmethod
    def _normalize_extensions(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        for extension in extensions:
            if extension and not extension.startswith("."):
                raise ValueError(f"{extension!r} does not begin with a dot; use '.{extension}'")
        return tuple(extension.lower() for extension in extensions)

    @field_validator("carry")
    @classmethod
    def _name_each_column_once(cls, carry: tuple[str, ...]) -> tuple[str, ...]:
        _without_repeats(tuple(column.partition(":")[0] for column in carry))
        return carry

    @model_validator(mode="after")
    def _need_an_input(self) -> Self:
        if not self.patterns and self.query is None:
            raise ValueError("patterns is missing; give it with --input or in a configuration file")
        return self


class OutputConfig(_Section):
    """Where the embeddings go: a folder, a table, or both."""

    path: Text | None = Field(
        default=None,
        description="A folder or a gs:// prefix; --output bq://PROJECT.DATASET.TABLE, alone or "
        "beside a folder, names output.table.",
    )
    table: Text | None = Field(
        default=None, description="A BigQuery table, PROJECT.DATASET.TABLE, one row an image."
    )
    formats: tuple[FileFormat, ...] = Field(
        default=("tfrecord",), min_length=1, description="Of the files in the folder."
    )
    overwrite: bool = Field(default=False, description="Replace a completed output.")
    incremental: bool = Field(
        default=False,
        description="Embed only what the output does not hold yet: what is new or changed, or "
        "was made by another model, precision or preprocessing. Each run gets a folder of its "
        "own, path/runs/RUN_ID.",
    )
    prune: bool = Field(
        default=False,
        description="With incremental: take the rows of deleted images out of the output.",
    )
    max_pruned_ratio: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Pruned rows over rows; above it the job fails, since an input that is "
        "half empty is more likely broken.",
    )
    allow_other_models: bool = Field(
        default=False,
        description="Write beside vectors of another model, precision or preprocessing that the "
        "output holds.",
    )
    shards: int = Field(
        default=0, ge=0, description="Number of files of each format; 0: the runner chooses."
    )
    compression: Literal["none", "gzip"] = Field(
        default="none", description="Compression of the TFRecord files."
    )

    @field_validator("formats")
    @classmethod
    def _name_each_format_once(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return _without_repeats(formats)

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> Self:
        if self.path is None and self.table is None:
            raise ValueError("path is missing; give it with --output or in a configuration file")
        if self.path is not None and self.path.startswith(TABLE_PREFIX):
            raise ValueError(f"path is {self.path!r}; a table goes into output.table")
        if self.prune and not self.incremental:
            raise ValueError("prune is true, which needs incremental to be true")
        if self.incremental and self.overwrite:
            raise ValueError(
                "overwrite is true, but incremental runs replace nothing; leave one of them out"
            )
        return self


class ModelConfig(_Section):
    """The network, and how it is run."""

    handle: Text = Field(
        default="https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/5",
        description="A TF Hub handle, the folder of a SavedModel, keras:inception_resnet_v2 with "
        "model.weights, or untrained:inception_resnet_v2.",
    )
    weights: Text | None = Field(
        default=None,
        description="Of a keras: handle: a local .h5, .weights.h5 or .keras file, or imagenet, "
        "which Keras downloads.",
    )
    signature: Text | None = Field(
        default=None, description="Signature of the model; null: the usual ones are looked for."
    )
    output: Text | None = Field(
        default=None,
        description="Key of the result, or name of the tensor, that is the embedding (the logits "
        "where no embedding is asked for); null: the usual ones are looked for.",
    )
    outputs: tuple[WrittenOutput, ...] = Field(
        default=("embedding",),
        min_length=1,
        description="What is written of each image; logits and top_classes need a classifier.",
    )
    top_classes: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="How many of the likeliest classes are written, with outputs of top_classes.",
    )
    labels: Text | None = Field(
        default=None,
        description="A text file with the names of the classes, one a line, that of class 0 "
        "first; written beside top_classes.",
    )
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description="Number format of the arithmetic. bfloat16 and float16 are faster on machines "
        "that have them, and other workers fail; auto takes the one that the output holds, or else "
        "the fastest that this machine has and that keeps the vectors.",
    )
    gpu: GpuUse | None = Field(
        default=None,
        description="What a worker does on which TensorFlow sees no GPU: optional: it takes the "
        "CPU; expected: it warns; required: it fails. Default: expected where "
        "workers.accelerator asks for a GPU, else optional.",
    )
    batch_size: int = Field(
        default=32, ge=1, le=1024, description="The most images in one call of the model."
    )
    share_between_processes: bool = Field(
        default=False, description="One model a machine, instead of one a process."
    )
    copies: int = Field(
        default=1,
        ge=1,
        description="Models a machine that its processes share; more than one only with "
        "share_between_processes.",
    )

    @field_validator("outputs")
    @classmethod
    def _name_each_output_once(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        return _without_repeats(outputs)

    @model_validator(mode="after")
    def _labels_are_of_the_top_classes(self) -> Self:
        if self.labels is not None and "top_classes" not in self.outputs:
            raise ValueError(
                f"labels is {self.labels!r}, but labels are written beside the top classes only; "
                "add top_classes to model.outputs"
            )
        return self

    @model_validator(mode="after")
    def _copies_are_of_a_shared_model(self) -> Self:
        if self.copies > 1 and not self.share_between_processes:
            raise ValueError(
                f"copies is {self.copies}, which needs share_between_processes to be true"
            )
        return self


class PreprocessConfig(_Section):
    """What happens between the decoded image and the network."""

    size: tuple[Side, Side] | None = Field(
        default=None, description="Height and width in pixels; null: what the model expects."
    )
    fit: Fit = Field(
        default=_DEFAULT_PREPROCESSING.fit,
        description="squash: resize both sides; center_crop: the largest centred part of the "
        "right proportions; pad: the whole image with bands of the background.",
    )
    kernel: Kernel = Field(
        default=_DEFAULT_PREPROCESSING.kernel, description="Filter of the resize."
    )
    antialias: bool = Field(
        default=_DEFAULT_PREPROCESSING.antialias,
        description="Widen the filter by the shrinking factor.",
    )
    scaled_decoding: ScaledDecoding = Field(
        default=_DEFAULT_PREPROCESSING.scaled_decoding,
        description="auto: let the JPEG decoder shrink large photographs, which is faster.",
    )
    value_range: tuple[float, float] = Field(
        default=_DEFAULT_PREPROCESSING.value_range,
        description="What 0 and 255 become at the input of the network.",
    )
    orientation: Orientation = Field(
        default=_DEFAULT_PREPROCESSING.orientation,
        description="exif: turn the image as its EXIF orientation says; ignore: as it is stored.",
    )
    background: tuple[ColorValue, ColorValue, ColorValue] = Field(
        default=_DEFAULT_PREPROCESSING.background,
        description="Red, green and blue of what shows through transparent pixels and of the "
        "bands of pad.",
    )

    @model_validator(mode="after")
    def _refuse_what_the_contract_refuses(self) -> Self:
        self.contract(1, 1)
        return self

    def contract(self, model_height: int, model_width: int) -> Preprocessing:
        """The preprocessing contract of a model that expects images of the given size.

        Args:
            model_height: pixels, used where `size` is None.
            model_width: pixels, used where `size` is None.

        Example:
            >>> PreprocessConfig(fit="pad").contract(299, 299).width
            299
        """
        height, width = self.size or (model_height, model_width)
        return Preprocessing(
            height=height,
            width=width,
            fit=self.fit,
            kernel=self.kernel,
            antialias=self.antialias,
            scaled_decoding=self.scaled_decoding,
            value_range=self.value_range,
            orientation=self.orientation,
            background=self.background,
        )


class FailuresConfig(_Section):
    """How many images may fail."""

    max_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Failed images over images found; above it the job fails.",
    )
    breaker_images: int = Field(
        default=1000,
        ge=1,
        description="A worker stops the job when most of its first so many images fail.",
    )


class WorkersConfig(_Section):
    """What machines the model is run on, for engines that choose: Dataflow's right fitting.

    Beam calls these resource hints. An engine that knows none passes over them.
    """

    accelerator: Text | None = Field(
        default=None,
        description="The GPU of these machines, as type:NAME;count:1;install-nvidia-driver and "
        "perhaps machine_type:NAME.",
    )
    min_ram: Text | None = Field(
        default=None, description="The least memory of these machines, with its unit: 24GB."
    )
    stage: Literal["read_decode_embed", "embed"] = Field(
        default="read_decode_embed",
        description="Which steps run there. With read_decode_embed no pixel crosses a shuffle; "
        "with embed the other machines decode, and hand over the pixels.",
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="How many images each thread of a worker decodes at once, ahead of the model. "
        "Default: one a processor on the local engine, whose one worker does everything; 1 "
        "elsewhere, where bundles side by side decode.",
    )

    @field_validator("accelerator")
    @classmethod
    def _name_one_kind_of_gpu(cls, accelerator: str | None) -> str | None:
        if accelerator is None or re.fullmatch(r"type:[\w-]+;count:\d+(;[\w.:-]+)*", accelerator):
            return accelerator
        raise ValueError(
            f"{accelerator!r} is no accelerator; write it like "
            "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
        )

    @field_validator("min_ram")
    @classmethod
    def _name_a_unit(cls, min_ram: str | None) -> str | None:
        if min_ram is None or re.fullmatch(r"\d+(\.\d+)? ?[MGT]i?B", min_ram):
            return min_ram
        raise ValueError(f"{min_ram!r} is no amount of memory; write it like 24GB")

    def hints(self, step: Literal["read", "decode", "embed"]) -> dict[str, str]:
        """Return Beam's resource hints for one of the steps, by their names.

        Example:
            >>> WorkersConfig(min_ram="24GB", stage="embed").hints("embed")
            {'min_ram': '24GB'}
            >>> WorkersConfig(min_ram="24GB", stage="embed").hints("decode")
            {}
        """
        if self.stage == "embed" and step != "embed":
            return {}
        named = {"accelerator": self.accelerator, "min_ram": self.min_ram}
        return {name: value for name, value in named.items() if value is not None}


class BeamConfig(_Section):
    """Any flag of Beam as a key: `runner`, `project`, `direct_num_workers`, ...

    `flags()` gives them as a dictionary; null means that the flag is left out.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, BeamValue] = Field(init=False)

    extra_flags: tuple[Text, ...] = Field(
        default=(),
        description="Flags passed on exactly as they are, whether Beam knows them or not.",
    )

    def flags(self) -> dict[str, BeamValue]:
        """Every key but `extra_flags` and those that are null."""
        return {key: value for key, value in self.__pydantic_extra__.items() if value is not None}


class JobConfig(_Section):
    """Everything that decides a run.

    Example:
        >>> config = JobConfig(
        ...     input=InputConfig(patterns=("photos/",)), output=OutputConfig(path="out/")
        ... )
        >>> config.model.batch_size
        32
    """

    input: InputConfig
    output: OutputConfig
    model: ModelConfig = ModelConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    failures: FailuresConfig = FailuresConfig()
    workers: WorkersConfig = WorkersConfig()
    beam: BeamConfig = BeamConfig()

    @property
    def gpu(self) -> GpuUse:
        """What a worker does on which TensorFlow sees no GPU.

        Example:
            >>> JobConfig(
            ...     input=InputConfig(patterns=("photos/",)),
            ...     output=OutputConfig(path="out/"),
            ...     workers=WorkersConfig(accelerator="type:nvidia-l4;count:1"),
            ... ).gpu
            'expected'
        """
        return self.model.gpu or ("expected" if self.workers.accelerator else "optional")


class ModelJobConfig(_Section):
    """What decides the vectors of a model, for commands that read no images."""

    model: ModelConfig = ModelConfig()
    preprocess: PreprocessConfig = PreprocessConfig()


#: The sections, in their order.
SECTIONS: dict[str, type[_Section]] = {
    "input": InputConfig,
    "output": OutputConfig,
    "model": ModelConfig,
    "preprocess": PreprocessConfig,
    "failures": FailuresConfig,
    "workers": WorkersConfig,
    "beam": BeamConfig,
}


def to_yaml(config: JobConfig) -> str:
    """The whole configuration as YAML, defaults included; as a file it loads back equal."""
    return format_yaml(config.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key of the configuration, as help and documentation show it."""

    path: str
    """section.key"""
    allowed: str
    """Its values in words, such as "a whole number from 1 to 1024"."""
    default: object
    """In the form of a YAML file, or None as well where the key must be given."""
    required: bool
    description: str


def config_keys() -> Iterator[ConfigKey]:
    """Every key of every section, in their order; of `beam` only `extra_flags`."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            default = None if field.is_required() else field.default
            yield ConfigKey(
                path=f"{section}.{name}",
                allowed=allowed_values(field),
                default=list(default) if isinstance(default, tuple) else default,
                required=field.is_required(),
                description=field.description or "",
            )


def allowed_values(field: FieldInfo) -> str:
    """What a field takes, in words: "a whole number from 1 to 1024", "none or gzip"."""
    kind, bounds = _noun(field.annotation, field.metadata)
    return f"{kind}{bounds}"


_NOUNS = {int: "whole number", float: "number", str: "text"}


def _noun(annotation: Any, metadata: list[Any], plural: bool = False) -> tuple[str, str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [item for field in arguments[1:] for item in field.metadata]
        return _noun(arguments[0], inner, plural)
    if origin is Literal:
        *others, last = arguments
        return f"{', '.join(others)} or {last}" if others else str(last), ""
    if origin in (Union, UnionType):
        kind, bounds = _noun(next(each for each in arguments if each is not NoneType), metadata)
        return kind, f"{bounds}, or null"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        kind, bounds = _noun(arguments[0], [], plural=True)
        return f"a list of {count}{kind}", bounds
    if annotation is bool:
        return "true or false", ""
    noun = _NOUNS[annotation]
    kind = f"{noun}s" if plural else noun if annotation is str else f"a {noun}"
    low = next((each.ge for each in metadata if hasattr(each, "ge")), None)
    high = next((each.le for each in metadata if hasattr(each, "le")), None)
    if low is not None and high is not None:
        return kind, f" from {low} to {high}"
    return kind, f" of {low} or more" if low is not None else ""
