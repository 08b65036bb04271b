"""What is said of a GPU that is not there, and of precisions that the machine has not."""

import json
import logging
import os
import subprocess
import sys

import pytest

from transforms.errors import BrokenModel
from transforms.networks.device import device_kind, prepare_device, why_not

pytestmark = pytest.mark.skipif(device_kind() == "gpu", reason="this machine has a GPU")


def test_every_machine_computes_in_float32() -> None:
    assert why_not("float32") is None


def test_no_cpu_computes_in_float16() -> None:
    assert "bfloat16" in (why_not("float16") or "")


def test_a_missing_gpu_that_nobody_asked_for_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert prepare_device() == "cpu"
    assert not caplog.records


def test_a_missing_gpu_that_was_expected_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert prepare_device("expected") == "cpu"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = json.loads(record.getMessage())
    assert said["event"] == "gpu-missing"
    assert "TensorFlow sees no GPU" in said["reason"]
    assert "model.gpu=required" in said["advice"]


def test_a_missing_gpu_that_is_required_is_an_error() -> None:
    with pytest.raises(BrokenModel, match=r"model\.gpu is required, and TensorFlow sees no GPU"):
        prepare_device("required")


def test_without_onednn_there_is_no_bfloat16() -> None:
    code = "from transforms.networks.device import why_not; print(why_not('bfloat16'))"
    # It is read once, when TensorFlow is loaded.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "oneDNN" in result.stdout


@pytest.mark.skipif(why_not("bfloat16") is not None, reason=str(why_not("bfloat16")))
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_onednn_may_not_use_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "avx512_core_vnni")
    assert "oneDNN may use avx512_core_vnni at most" in (why_not("bfloat16") or "")
    monkeypatch.setenv(name, "AVX512_CORE_BF16")
    assert why_not("bfloat16") is None
