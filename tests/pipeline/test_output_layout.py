"""What the configuration wants of a model, and where that lies in its vectors."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ModelConfig
from pipeline.output_layout import known_layout, model_request, read_labels, settle_layout
from transforms.errors import RequestError, UnusableModel
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.incremental_runs import VectorSet
from transforms.models.model_description import ModelDescription
from transforms.models.model_outputs import ModelOutput
from transforms.models.saved_model import EntryPoint, TensorInfo
from transforms.records import CarriedColumn, ModelRequest, OutputLayout

ENTRY = EntryPoint("serving_default", "f", (TensorInfo("images", "float32", None),), ())


def described(**widths: int | None) -> ModelDescription:
    outputs = tuple(ModelOutput(name, None, widths[name], ENTRY) for name in widths)  # type: ignore[arg-type]
    return ModelDescription("models/mine", 32, 32, outputs, "0" * 16, False, True)


def test_the_default_configuration_is_the_default_request() -> None:
    assert model_request(ModelConfig(handle="models/mine")) == ModelRequest()


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        (("embedding",), ("embedding",)),
        (("logits",), ("logits",)),
        (("top_classes",), ("logits",)),
        (("top_classes", "logits"), ("logits",)),
        (("top_classes", "embedding"), ("embedding", "logits")),
        (("logits", "embedding"), ("embedding", "logits")),
    ],
)
def test_logits_and_top_classes_need_the_logits_of_the_model(
    outputs: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    assert model_request(ModelConfig(outputs=outputs)).wanted == wanted  # type: ignore[arg-type]


def test_signature_output_and_kind_go_with_the_request() -> None:
    handle = "https://tfhub.dev/google/imagenet/inception_resnet_v2/classification/5"
    config = ModelConfig(handle=handle, signature="mine", output="pool:0")
    assert model_request(config) == ModelRequest("mine", "pool:0", kind="classification")


@pytest.mark.parametrize(
    "content",
    ["a\n\n ä b \n", "a\n\n ä b ", "a\r\n\r\n ä b \r\n", "\ufeffa\n\n ä b \n"],
)
def test_each_line_is_a_label(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode())
    assert read_labels(str(path)) == ("a", "", " ä b ")


def test_signs_that_only_look_like_the_end_of_a_line_stay_in_the_label(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("a\u2028b\x0bc\nd".encode())
    assert read_labels(str(path)) == ("a\u2028b\x0bc", "d")


@pytest.mark.parametrize(
    ("embedding", "logits"), [(8, 3), (None, 3), (8, None)], ids=["stated", "first", "second"]
)
def test_a_width_that_the_graph_leaves_open_is_what_is_left(
    embedding: int | None, logits: int | None
) -> None:
    model = ModelConfig(outputs=("embedding", "logits"))
    layout = settle_layout(model, described(embedding=embedding, logits=logits), width=11)
    assert layout == OutputLayout(embedding_width=8, classes=3, writes_logits=True)
    assert (layout.embedding, layout.logits) == (slice(0, 8), slice(8, 11))


@pytest.mark.parametrize("width", [None, 8])
def test_one_output_is_the_whole_vector(width: int | None) -> None:
    assert settle_layout(ModelConfig(), described(embedding=width), 8) == OutputLayout(8)


def test_two_widths_that_nobody_tells_are_refused() -> None:
    model = ModelConfig(outputs=("embedding", "logits"))
    with pytest.raises(UnusableModel, match=r"write embedding_width into a model\.json"):
        settle_layout(model, described(embedding=None, logits=None), width=11)


def test_what_does_not_go_with_the_number_of_classes_is_refused_with_the_key() -> None:
    model = ModelConfig(outputs=("top_classes",), labels="labels.txt")
    with pytest.raises(RequestError, match=r"^model\.top_classes is 5, .* use 3 or less"):
        settle_layout(model, described(logits=3), width=3)
    with pytest.raises(RequestError, match=r"^model\.labels has 2 lines, .* 9 classes apart"):
        settle_layout(model, described(logits=9), width=9, labels=("a", "b"))


PRICE = CarriedColumn("price", "float64")


def earlier(layout: OutputLayout, *, labels: str | None = None) -> VectorSet:
    provenance = Provenance("models/mine", "0" * 16, "1" * 16)
    return VectorSet(provenance, layout, (PRICE,), {"outputs": {"labels": labels}})


def test_a_run_that_adds_to_an_output_takes_the_layout_of_what_is_there() -> None:
    found = OutputLayout(8, 3, writes_logits=True, top_classes=2)
    model = ModelConfig(outputs=("top_classes", "logits", "embedding"), top_classes=2)
    assert known_layout(model, earlier(found), (PRICE,), None, "out") == found


def test_labels_go_with_the_layout_of_what_is_there_if_they_are_as_many() -> None:
    found = earlier(OutputLayout(0, 3, top_classes=2), labels="/labels.txt")
    model = ModelConfig(outputs=("top_classes",), top_classes=2, labels="/labels.txt")
    layout = known_layout(model, found, (PRICE,), ("a", "b", "c"), "out")
    assert layout == OutputLayout(0, 3, top_classes=2, labels=("a", "b", "c"))
    with pytest.raises(RequestError, match=r"^model\.labels has 2 lines, .* 3 classes apart"):
        known_layout(model, found, (PRICE,), ("a", "b"), "out")


@pytest.mark.parametrize(
    ("changes", "columns", "labels", "told"),
    [
        ({"outputs": ("embedding",)}, (PRICE,), None, "this run would write an embedding, the"),
        ({"outputs": ("embedding", "logits", "top_classes")}, (PRICE,), None, "embedding, logits,"),
        ({"top_classes": 3}, (PRICE,), None, "3 top classes without labels"),
        ({}, (PRICE,), ("a", "b", "c"), "2 top classes with labels"),
        ({}, (), None, "2 top classes without labels;"),
        ({}, (CarriedColumn("price"),), None, r"the column price \(string\)"),
    ],
    ids=["fewer outputs", "more outputs", "top classes", "labels", "no column", "another type"],
)
def test_a_run_that_would_write_something_else_is_refused(
    changes: dict[str, Any], columns: tuple[CarriedColumn, ...], labels: Any, told: str
) -> None:
    found = earlier(OutputLayout(8, 3, top_classes=2))
    model = ModelConfig(**{"outputs": ("embedding", "top_classes"), "top_classes": 2} | changes)
    holds = "^out holds an embedding, 2 top classes without labels, the column price \\(float64\\)"
    with pytest.raises(RequestError, match=rf"{holds}, and .*{told}"):
        known_layout(model, found, columns, labels, "out")


LABEL = CarriedColumn("label")


def test_the_rows_of_a_table_may_get_further_columns_and_those_of_a_folder_not() -> None:
    found = OutputLayout(8)
    grown = (LABEL, PRICE)
    layout = known_layout(
        ModelConfig(), earlier(found), grown, None, "bq://p.d.t", columns_may_grow=True
    )
    assert layout == found
    with pytest.raises(RequestError, match=r"^out holds .* input\.carry$"):
        known_layout(ModelConfig(), earlier(found), grown, None, "out")


@pytest.mark.parametrize("columns", [(), (LABEL,), (LABEL, CarriedColumn("price", "int64"))])
def test_no_column_of_a_table_may_be_left_out_or_change(columns: tuple[CarriedColumn, ...]) -> None:
    with pytest.raises(RequestError, match="to which columns may be added"):
        known_layout(
            ModelConfig(), earlier(OutputLayout(8)), columns, None, "t", columns_may_grow=True
        )
