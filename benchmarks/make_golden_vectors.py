"""Write the golden vectors of the untrained network, which `embed-images doctor` compares with.

Run as `python benchmarks/make_golden_vectors.py` whenever RECIPE_VERSION in
transforms/models/untrained_model.py or `generated_images` changes, and commit the file.
"""

from pathlib import Path

import numpy as np

from transforms.models.model_description import describe_model
from transforms.models.untrained_model import INPUT_SIZE, UNTRAINED_HANDLE, untrained_model_folder
from transforms.networks.golden_vectors import GOLDEN_FILES, generated_images
from transforms.networks.hub_model import HubImageModel

IMAGES = 2


def main() -> None:
    description = describe_model(untrained_model_folder())
    model = HubImageModel.load(description, height=INPUT_SIZE, width=INPUT_SIZE)
    vectors = model.embed(generated_images(INPUT_SIZE, INPUT_SIZE)[:IMAGES])
    file = Path(__file__).parents[1] / "transforms/networks" / GOLDEN_FILES[UNTRAINED_HANDLE]
    np.savez_compressed(file, size=np.array([INPUT_SIZE, INPUT_SIZE]), vectors=vectors)
    print(f"{len(vectors)} vectors of {vectors.shape[1]} values are in {file.name}")


if __name__ == "__main__":
    main()
