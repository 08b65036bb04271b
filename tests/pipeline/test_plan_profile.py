"""The profile of `plan`: where its prices are from, and what a wrong one is told."""

from pathlib import Path

import pytest
import yaml
from apache_beam.testing.load_tests import dataflow_cost_consts as published

from pipeline.plan_profile import MachineKind, Prices, default_profile_text, load_profile
from transforms.errors import RequestError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def changed(folder: Path, *replacements: tuple[str, str]) -> str:
    """Write the default profile with other lines to a file, and return its path."""
    text = default_profile_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_default_prices_are_those_that_beam_publishes() -> None:
    profile = load_profile(None)

    assert profile.prices.vcpu_hour == published.VCPU_PER_HR_BATCH
    assert profile.prices.memory_gb_hour == published.MEM_PER_GB_HR_BATCH
    assert profile.prices.disk_gb_hour == published.PD_PER_GB_HR
    assert {name: kind.gpu_hour for name, kind in profile.machines.items()} == {
        "t4": published.T4_PER_GPU_PER_HOUR,
        "l4": published.L4_PER_GPU_PER_HOUR,
        "a100": published.A100_40GB_PER_GPU_PER_HOUR,
        "cpu": None,
    }


def test_each_kind_is_what_its_configuration_asks_for() -> None:
    kinds = load_profile(None).machines

    assert {kind.config for kind in kinds.values()} == {
        f"configs/{path.name}" for path in CONFIGS.glob("dataflow_*.yaml")
    }
    for kind in kinds.values():
        config = yaml.safe_load((CONFIGS.parent / kind.config).read_text())
        hint = config.get("workers", {}).get("accelerator", "")
        machine = hint.partition("machine_type:")[2].partition(";")[0]
        assert kind.machine_type == (machine or config["beam"]["machine_type"])
        assert kind.vcpus == int(kind.machine_type.rpartition("-")[2].replace("1g", "12"))
        assert kind.disk_gb == config["beam"]["disk_size_gb"]
        assert kind.max_workers == config["beam"]["max_num_workers"]
        assert kind.batch_size == config["model"]["batch_size"]
        assert (kind.gpu is not None) == bool(hint)


def test_no_rate_of_the_default_profile_is_made_up() -> None:
    profile = load_profile(None)

    assert profile.here.decode is profile.here.inference is None
    assert all(kind.inference is kind.decode is None for kind in profile.machines.values())


def test_the_price_of_a_machine_is_that_of_its_parts() -> None:
    prices = Prices(
        region="r", source="s", read_on="d", vcpu_hour=0.1, memory_gb_hour=0.01, disk_gb_hour=0.001
    )
    kind = MachineKind(
        config="c",
        machine_type="m",
        vcpus=8,
        memory_gb=30,
        disk_gb=100,
        gpu="a GPU",
        gpu_hour=0.5,
        batch_size=1,
        max_workers=1,
    )

    # 8 x 0.1 + 30 x 0.01 + 100 x 0.001 + 0.5
    assert kind.usd_hour(prices) == pytest.approx(1.7)
    assert kind.model_copy(update={"gpu_hour": None}).usd_hour(prices) is None


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (
            ("    gpu_hour: 0.42", "    gpu_hours: 0.42"),
            "machines.t4.gpu_hours: unknown key; did you mean machines.t4.gpu_hour?",
        ),
        (("  vcpu_hour:", "  vcpus_hour:"), "did you mean prices.vcpu_hour?"),
        (("target_hours: 1.0", "target_hours: 0"), "target_hours: 0 is not allowed: "),
        (("    vcpus: 12", "    vcpus: twelve"), "machines.a100.vcpus: 'twelve' is not allowed"),
        (("    gpu_hour: null", "    gpu_hour: 1.5"), "machines.cpu.gpu_hour is 1.5, but gpu is"),
        (
            ("  region: us-central1\n", ""),
            "prices.region is missing; embed-images plan --print-profile shows how it is written",
        ),
        (("target_hours: 1.0", "target_hours: 1.0e-320"), "target_hours: 1e-320 is not allowed"),
        (("target_hours: 1.0", "target_hours: .inf"), "target_hours: inf is not allowed"),
        (("vcpu_hour: 0.056", "vcpu_hour: 1.0e308"), "prices.vcpu_hour: 1e+308 is not allowed"),
        (("    vcpus: 12", "    vcpus: 100000000"), "machines.a100.vcpus: 100000000 is not"),
        (
            ("  decode: null", "  decode: {images_per_second: 1e-9, kind: measured, source: me}"),
            "here.decode.images_per_second: 1e-09 is not allowed: input should be from 1e-06 to",
        ),
        (("here:", "here: &a {x: *a}\nthere:"), "an alias (*) stands inside what it repeats"),
        (("here:", "? !!timestamp 2026-11-20\n: 1\nhere:"), "holds what no profile does: keys"),
        (("source: >-", 'source: "\\ud800"\n  x: >-'), "holds what no profile does: "),
        (
            ("  decode: null", "  decode: {images_per_seconds: 2, kind: measured, source: me}"),
            "here.decode.images_per_seconds: unknown key; did you mean "
            "here.decode.images_per_second?",
        ),
        (
            ("  decode: null", "  decode: {images_per_second: 2, kind: guessed, source: me}"),
            "here.decode.kind: 'guessed' is not allowed",
        ),
        (("machines:", "machines: ["), "line "),
    ],
)
def test_a_wrong_profile_is_refused_with_the_key(
    tmp_path: Path, replacement: tuple[str, str], message: str
) -> None:
    with pytest.raises(RequestError) as refused:
        load_profile(changed(tmp_path, replacement))

    assert message in str(refused.value)
    assert "mine.yaml" in str(refused.value)


def test_a_mistyped_key_is_one_line_and_not_missing_besides(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        load_profile(changed(tmp_path, ("    max_workers: 8", "    max_worker: 8")))

    assert str(refused.value) == (
        "--profile: machines.t4.max_worker: unknown key; did you mean machines.t4.max_workers? "
        f"({tmp_path}/mine.yaml)"
    )


def test_two_problems_are_two_lines(tmp_path: Path) -> None:
    wrong = (("    max_workers: 8", "    max_worker: 8"), ("  region: us-central1\n", ""))
    with pytest.raises(RequestError) as refused:
        load_profile(changed(tmp_path, *wrong))

    first, *others = str(refused.value).splitlines()
    assert first == "--profile:"
    assert len(others) == 2


def test_a_missing_or_empty_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no file"):
        load_profile(str(tmp_path / "none.yaml"))
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    with pytest.raises(RequestError, match="it needs the keys target_hours, prices, here, machine"):
        load_profile(str(empty))


def test_the_printed_profile_is_the_default_one(tmp_path: Path) -> None:
    assert load_profile(changed(tmp_path)) == load_profile(None)
