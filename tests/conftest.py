"""Set before any test: no real service is reached, and the user's caches stay as they are."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

#: Nothing listens on port 9 (discard), so a forgotten gs:// path is refused at once. Without
#: it Beam waits minutes for the real host.
DEAD_HOST = "http://127.0.0.1:9"

CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "x",
    "client_secret": "x",
    "refresh_token": "x",
    "token": "fake",
    "expiry": "2099-01-01T00:00:00.000000Z",
    "quota_project_id": "test-project",
}


def pytest_configure(config: pytest.Config) -> None:
    """Prepare one environment for the whole session; xdist's workers inherit it."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(tempfile.mkdtemp(prefix="embed-images-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    credentials = folder / "credentials.json"
    credentials.write_text(json.dumps(CREDENTIALS))
    os.environ.update(
        TF_CPP_MIN_LOG_LEVEL="3",
        # Shared by the session, so that the full network is built once.
        EMBED_IMAGES_CACHE=str(folder / "embed-images"),
        TFHUB_CACHE_DIR=str(folder / "tfhub"),
        KERAS_HOME=str(folder / "keras"),
        XDG_CACHE_HOME=str(folder / "cache"),
        GOOGLE_APPLICATION_CREDENTIALS=str(credentials),
        GOOGLE_CLOUD_PROJECT="test-project",
        NO_GCE_CHECK="true",
        STORAGE_EMULATOR_HOST=DEAD_HOST,
        BIGQUERY_EMULATOR_HOST=DEAD_HOST,
        BIGQUERY_STORAGE_EMULATOR_HOST=DEAD_HOST.removeprefix("http://"),
    )


@pytest.fixture(autouse=True)
def _no_real_storage() -> None:
    """Fail a test that starts after another one has pointed the process at the real host."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    assert host.startswith(("http://127.0.0.1:", "http://localhost:")), (
        f"STORAGE_EMULATOR_HOST is {host!r}; the tests must not reach the real Cloud Storage"
    )
