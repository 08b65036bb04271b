"""Make the batch-norm statistics of the untrained model, from photographs.

    python benchmarks/calibrate_untrained_model.py

Freshly seeded, the network has the statistics 0 and 1 in each batch-normalisation layer. Its
layers then drift away from what they are meant to see, and every two photographs get nearly
the same vector (cosine 0.99). One pass in training mode with momentum 0 over real images
sets each mean and variance to what the layer sees, and photographs come apart.

The last bits of what this writes depend on the processor. That is why its result is
committed, and why a new result needs a new RECIPE_VERSION in transforms/models/untrained_model.py.
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.models import untrained_model
from transforms.models.reusable_module import batch_norm_layers, reusable_module
from transforms.models.untrained_model import INPUT_SIZE, STATISTICS_FILE

#: Package, and names in it. The textures, scans and drawings bring flat and bright areas,
#: without which photographs on a plain background fall outside of the calibrated range.
IMAGES = {
    "skimage.data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "horse.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "logo.png",
        "moon.png",
        "motorcycle_left.png",
        "page.png",
        "phantom.png",
        "retina.jpg",
        "rocket.jpg",
        "text.png",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}


def read_images() -> Iterator[Image.Image]:
    """Yield the images that the wheels of scikit-image and scikit-learn carry, as RGB."""
    for package, names in IMAGES.items():
        for name in names:
            with resources.files(package).joinpath(name).open("rb") as file:
                yield Image.open(file).convert("RGB")


def calibration_batch() -> npt.NDArray[np.float32]:
    """Return float32 `[n, 299, 299, 3]` in [0, 1]: each image whole, and two quarters."""
    views = []
    for image in read_images():
        width, height = image.size
        middle = (width // 2, height // 2)
        boxes = ((0, 0, width, height), (0, 0, *middle), (*middle, width, height))
        for box in boxes:
            view = image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR, box)
            views.append(np.asarray(view, np.float32) / 255.0)
    return np.stack(views)


def main() -> None:
    """Calibrate, and write the file beside transforms/models/untrained_model.py."""
    network = untrained_model.seeded_network()
    images = calibration_batch()
    # The momentum is the share of the old statistics that stays.
    reusable_module(network).__call__(images, training=True, batch_norm_momentum=np.float32(0.0))
    layers = batch_norm_layers(network)
    means = np.concatenate([layer.moving_mean.numpy() for layer in layers])
    variances = np.concatenate([layer.moving_variance.numpy() for layer in layers])
    target = Path(untrained_model.__file__).parent / STATISTICS_FILE
    np.savez_compressed(target, moving_mean=means, moving_variance=variances)
    print(f"{len(images)} views, {len(layers)} layers -> {target}")


if __name__ == "__main__":
    main()
