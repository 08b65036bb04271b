"""Modules of exactly the forms in which TF Hub publishes its ImageNet networks.

A form is made of the files, tags, signatures, keys and arguments of
https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/1, /3, /4, /5 and
.../classification/1, /3, /4, /5. Only the network and its weights are stand-ins, and the same
network goes into every form.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from hub_networks import Network

Form = Literal[
    "feature_vector/1",
    "feature_vector/3",
    "feature_vector/4",
    "feature_vector/5",
    "classification/1",
    "classification/3",
    "classification/4",
    "classification/5",
]
FORMS: tuple[Form, ...] = get_args(Form)

#: Trained for, and fixed in version /1.
IMAGE_SIZE = 299


def save_hub_module(
    folder: str | Path,
    form: Form,
    network: Network,
    *,
    size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE),
    output_key: str = "default",
) -> str:
    """Save the network in one of the published forms; return the folder as a string.

    Args:
        folder: to be made.
        form: the last two parts of the handle.
        network: the same for every form; a `TinyNetwork` or a `KerasNetwork`.
        size: height and width: fixed in version /1, attached to /3, unknown to /4 and /5.
        output_key: in the signature of /5, which is not documented.

    Example:
        >>> save_hub_module(tmp_path / "3", "feature_vector/3", TinyNetwork()) # doctest: +SKIP
    """
    kind, version = form.split("/")
    if version in ("1", "3"):
        return save_tf1_module(folder, network, kind, variable_size=version == "3", size=size)
    key = output_key if version == "5" else None
    return save_tf2_module(folder, network, kind, serving_key=key)


def save_tf1_module(
    folder: str | Path,
    network: Network,
    kind: str,
    *,
    variable_size: bool,
    size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE),
    attach_size: bool = True,
) -> str:
    """Save a module in the TF1 Hub format, as tensorflow_hub 0.12's exporter wrote it.

    Beside saved_model.pb stands tfhub_module.pb; the graphs are tagged [] and ["train"], hold no
    saver, and share the variables. See
    https://www.tensorflow.org/hub/common_signatures/images for the signatures.

    Args:
        folder: to be made.
        network: to be saved.
        kind: feature_vector or classification.
        variable_size: images of any size, and signatures that take the momentum of the batch
            normalisation, as in /3.
        size: height and width of the images of a module that is not of variable size.
        attach_size: attach the size to a module of variable size, as its default.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    names = [f"{number:04d}/{each.name.partition(':')[0]}" for number, each in _counted(network)]
    for training in (False, True):
        graph, signatures = _tf1_graph(network, names, training, kind, variable_size, size)
        with graph.as_default():
            meta_graph = tf.compat.v1.train.export_meta_graph(strip_default_attrs=True)
            for name, sides in signatures.items():
                inputs, outputs = (
                    {key: tf.compat.v1.saved_model.build_tensor_info(i) for key, i in side.items()}
                    for side in sides
                )
                signature = tf.compat.v1.saved_model.build_signature_def(inputs, outputs)
                meta_graph.signature_def[name].CopyFrom(signature)
        meta_graph.meta_info_def.tags.extend(["train"] if training else [])
        if variable_size and attach_size:
            attached = meta_graph.collection_def["hub_module_attachments"].bytes_list
            attached.value.append(image_size_attachment(*size))
        saved_model.meta_graphs.append(meta_graph)
    variables = Path(folder) / "variables"
    variables.mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(variables / "variables"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[variable.value() for variable in network.variables],
    )
    (Path(folder) / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    (Path(folder) / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return str(folder)


def image_size_attachment(height: int, width: int) -> bytes:
    """The message that tells a module's usual size, as `hub.attach_image_module_info` made it.

    `ModuleAttachment{key: "image_module_info", value: ImageModuleInfo{default_image_size}}`.
    """

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(content)) + content

    sides = b"\x08" + _varint(height) + b"\x10" + _varint(width)
    return field(1, b"image_module_info") + field(2, field(1, sides))


def _varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])


def _counted(network: Network) -> list[tuple[int, Any]]:
    return list(enumerate(network.variables))


def _tf1_graph(
    network: Network,
    names: list[str],
    training: bool,
    kind: str,
    variable_size: bool,
    size: tuple[int, int],
) -> tuple[Any, Mapping[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Return the flat graph of the network, and its signatures as inputs and outputs."""
    import tensorflow as tf

    shape = [None, *((None, None) if variable_size else size), 3]
    specifications = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec([], tf.float32))
    traced = tf.function(
        lambda images, momentum: network(images, training, momentum), autograph=False
    ).get_concrete_function(*specifications)
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, shape, "hub_input/images")
        momentum = tf.compat.v1.placeholder_with_default(0.99, [], "batch_norm_momentum")
        handles = {}
        for name, variable in zip(names, network.variables, strict=True):
            copy = tf.compat.v1.get_variable(
                name, variable.shape, initializer=tf.zeros_initializer(), use_resource=True
            )
            handles[id(variable.handle)] = copy.handle
        sources = {traced.inputs[0].name: images, traced.inputs[1].name: momentum}
        sources |= {inner.name: handles[id(outer)] for outer, inner in traced.graph.captures}
        endpoints = tf.graph_util.import_graph_def(
            traced.graph.as_graph_def(),
            sources,
            [tensor.name for tensor in traced.structured_outputs.values()],
            name="module",
        )
    outputs = dict(zip(traced.structured_outputs, endpoints, strict=True))
    vector, logits = outputs.pop("feature_vector"), outputs.pop("logits")
    main = logits if kind == "classification" else vector
    tasks = {"image_feature_vector": {"default": vector, **outputs}}
    if kind == "classification":
        tasks["image_classification"] = {"default": logits, **outputs}
    signatures = {"default": ({"images": images}, {"default": main})}
    for task, results in tasks.items():
        signatures[task] = ({"images": images}, results)
        if variable_size:
            inputs = {"images": images, "batch_norm_momentum": momentum}
            signatures[f"{task}_with_bn_hparams"] = (inputs, results)
    return graph, signatures


def save_tf2_module(
    folder: str | Path, network: Network, kind: str, *, serving_key: str | None = None
) -> str:
    """Save a reusable SavedModel: `__call__(inputs, training=False, batch_norm_momentum=0.99)`.

    See https://www.tensorflow.org/hub/reusable_saved_models.

    Args:
        folder: to be made.
        network: to be saved.
        kind: feature_vector or classification: what the call gives.
        serving_key: with a signature `serving_default` beside the call, whose output has this
            key, as in /5; without signatures, as in /4.
    """
    import tensorflow as tf

    result = "logits" if kind == "classification" else "feature_vector"

    @tf.function(autograph=False)
    def call(inputs: Any, training: bool = False, batch_norm_momentum: Any = 0.99) -> Any:
        return network(inputs, training, batch_norm_momentum)[result]

    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
    for training in (False, True):
        for momentum in (0.99, tf.TensorSpec([], tf.float32, name="batch_norm_momentum")):
            call.get_concrete_function(images, training=training, batch_norm_momentum=momentum)
    module = tf.train.Checkpoint()
    module.__call__ = call
    module.variables = list(network.variables)
    module.trainable_variables = [each for each in network.variables if each.trainable]
    module.regularization_losses = []
    signatures = {}
    if serving_key is not None:
        key = serving_key
        signatures["serving_default"] = tf.function(
            lambda inputs: {key: call(inputs)}, input_signature=[images], autograph=False
        )
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return str(folder)
