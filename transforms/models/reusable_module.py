"""From a Keras network to a SavedModel with the interface of a TF Hub feature vector."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def batch_norm_layers(network: Any) -> list[Any]:
    """Return the batch-normalisation layers of the network, by position."""
    import keras

    return [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]


def reusable_module(network: Any) -> Any:
    """Wrap the network in the interface of TF Hub's `feature_vector/4`.

    `__call__(inputs, training=False, batch_norm_momentum=0.99)` takes float32 RGB
    `[n, height, width, 3]` in [0, 1] and gives float32 `[n, width]`. It is traced four ways:
    training or not, momentum left alone or given as a scalar tensor. Beside it stand
    `variables`, `trainable_variables` and `regularization_losses`
    (https://www.tensorflow.org/hub/reusable_saved_models). The variables stand in lists, so
    that their checkpoint keys are positions.

    Args:
        network: a `keras.Model` from `[n, height, width, 3]` in [-1, 1] to `[n, width]`.
    """
    import tensorflow as tf

    batch_norms = batch_norm_layers(network)

    @tf.function
    def call(inputs: Any, training: bool = False, batch_norm_momentum: Any = 0.99) -> Any:
        usual = [layer.momentum for layer in batch_norms]
        for layer in batch_norms:
            layer.momentum = batch_norm_momentum
        try:
            return network(inputs * 2.0 - 1.0, training=training)
        finally:
            for layer, momentum in zip(batch_norms, usual, strict=True):
                layer.momentum = momentum

    for training in (False, True):
        for momentum in (0.99, tf.TensorSpec([], tf.float32, name="batch_norm_momentum")):
            call.get_concrete_function(_images(), training=training, batch_norm_momentum=momentum)

    module = tf.train.Checkpoint()
    module.__call__ = call
    module.variables = [variable.value for variable in network.variables]
    module.trainable_variables = [variable.value for variable in network.trainable_variables]
    module.regularization_losses = []
    return module


def save_reusable_module(
    network: Any, folder: Path, facts: Mapping[str, Any], classifier: Any = None
) -> None:
    """Save `reusable_module(network)` to the folder, with the facts as its model.json.

    Args:
        network: see `reusable_module`.
        folder: exists, and is empty.
        facts: what `transforms.models.model_description` reads, and more.
        classifier: a `keras.Layer` from the vectors to logits. With it the model has a
            signature `serving_default` that gives `embedding` and `logits` in one run.

    Raises:
        OSError: the folder cannot be written.
    """
    import tensorflow as tf

    module = reusable_module(network)
    # An empty dict, because None lets TensorFlow look for a signature of its own.
    signatures = {}
    if classifier is not None:
        module.classifier_variables = [variable.value for variable in classifier.variables]

        @tf.function(input_signature=[_images()])
        def embed_and_classify(inputs: Any) -> dict[str, Any]:
            embedding = module.__call__(inputs)
            return {"embedding": embedding, "logits": classifier(embedding)}

        signatures["serving_default"] = embed_and_classify
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:
        # A full disk, for one: TensorFlow's file errors are not OSErrors.
        raise OSError(error.message) from error
    (folder / "model.json").write_text(json.dumps(facts, indent=2) + "\n")


def _images() -> Any:
    import tensorflow as tf

    return tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
