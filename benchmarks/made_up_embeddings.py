"""Embeddings as a network leaves them, of images that nobody has."""

import numpy as np

from transforms.records import Embedding, ImageInfo, Origin

WIDTH = 1536


def some_embeddings(count: int) -> list[Embedding]:
    """Averages of rectified values, as those behind the pooling of a network are."""
    random = np.random.default_rng(0)
    vectors = random.gamma(0.6, 0.6, (count, WIDTH)).astype(np.float32)
    return [
        Embedding(
            ImageInfo(
                f"gs://photographs/2026/11/{number:09d}.jpg",
                f"{number:064x}",
                "JPEG",
                3000,
                4000,
                Origin(str(1_700_000_000_000_000 + number)),
            ),
            vectors[number],
            batch_slots=1.0,
            embedded_at=1_795_000_000.0 + number / 1000,
        )
        for number in range(count)
    ]
