"""What every submission needs: images, a model, and a service."""

from collections.abc import Iterator

import pytest
from dataflow_server import DataflowServer, dataflow_server
from sample_images import corrupt_images, jpeg_bytes
from storage_emulator import StorageServer, storage_server, upload
from tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageServer]:
    """Photographs in a bucket, one of them broken."""
    with storage_server() as server:
        for number in range(6):
            server.put(f"photos/{number}.jpg", jpeg_bytes(seed=number))
        server.put("photos/corrupt.jpg", corrupt_images()["truncated JPEG"])
        yield server


@pytest.fixture(scope="module")
def model(storage: StorageServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its address in the bucket."""
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "model")
    return upload(folder, f"{storage.address}/model")


@pytest.fixture(scope="module")
def dataflow(storage: StorageServer) -> Iterator[DataflowServer]:
    """A service that takes jobs, and runs them when it is told to."""
    with dataflow_server() as server:
        yield server
