"""The sections of the benchmark: each measures by turns, and returns its tables."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contenders import Contestant, LeftOut, quiet_environment
from contests import (
    LARGE_SIZE,
    ORDINARY_SIZE,
    PRECISIONS,
    Contender,
    Sizes,
    bare_networks,
    decoding,
    decoding_targets,
    handlers,
    network_targets,
    peers,
    remote,
    stage_targets,
    take_turns,
    whole,
)
from machine import usable_cores
from measuring import Figure, Ratio, Section, Target, ratios_of, spread, without_impossible
from ours import WholeProcess
from photographs import (
    ORDINARY,
    TWELVE_MEGAPIXELS,
    link_photographs,
    make_photographs,
    own_photographs,
)

NETWORK_SECTIONS = ("limit", "peers", "ours")
SECTIONS = (*NETWORK_SECTIONS, "stages", "decode", "growth")

#: The least images of a job over the photographs of a user, for its rate to mean anything.
_LEAST_PHOTOGRAPHS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of the benchmark was asked for."""

    sizes: Sizes
    workplace: Path
    """A folder for photographs and models."""
    photographs: Path | None
    """The user's own, in place of those that are made."""
    mobilenet: str | None
    """A model to compare vectors with; None: that comparison is left out."""
    say: Callable[[str], None]


def measure_networks(plan: Plan, wanted: Sequence[str]) -> list[Section]:
    """Measure limit, peers and ours, all by turns, so that each ratio is of one round."""
    sizes = plan.sizes
    count = max(sizes.few + sizes.many, sizes.peer_images)
    paths = _photographs(plan, count, ORDINARY)
    model, callable_model, gigaflop = _plain_model(plan)
    of_section: dict[str, dict[str, Callable[[], Contender]]] = {}
    if "limit" in wanted:
        of_section["limit"] = _remotes(bare_networks(sizes, model))
    if "peers" in wanted:
        same_files = paths[: sizes.peer_images]
        of_section["peers"] = _remotes(
            peers(sizes, model, callable_model, same_files, usable_cores())
        )
    if "ours" in wanted:
        of_section["ours"] = _remotes(handlers(sizes)) | _whole_processes(plan, paths)
    starts = {name: start for section in wanted for name, start in of_section[section].items()}
    measured, lines = take_turns(starts, sizes.rounds, plan.say)
    figures, thrown_out = _without_impossible(measured, gigaflop)
    ratios = ratios_of(figures, network_targets())
    sections = []
    for name in wanted:
        of_this = [figure for figure in figures if figure.contender in of_section[name]]
        notes = [line for line in lines + list(thrown_out) if _names(line, of_section[name])]
        if name == "limit":
            of_this += _at_the_peak(of_this, gigaflop)
            notes.append(
                f"An image is {gigaflop:.2f} GFLOP by TensorFlow's count over the graph, a "
                "multiply-add counted as two. The network is a stand-in with random "
                "weights, which takes as long as a trained one."
            )
        sections.append(
            Section(name, tuple(of_this), ratios if name == "ours" else (), tuple(notes))
        )
    return sections


def measure_stages(plan: Plan) -> Section:
    """Measure each stage alone, by turns in one process."""
    paths = _photographs(plan, 64, ORDINARY)
    folder = link_photographs(paths, plan.workplace / "stages")
    settings = {"folder": folder, "seconds": plan.sizes.stage_seconds}
    stages = Contestant("stages", "stages", settings)
    found, lines = take_turns({"stages": remote(stages)}, plan.sizes.rounds, plan.say)
    # There a stage stands where a measure stands elsewhere.
    figures = [replace(each, contender=each.measure, measure="images/s") for each in found]
    return Section("stages", tuple(figures), ratios_of(figures, stage_targets()), tuple(lines))


def measure_decoding(plan: Plan) -> Section:
    """Measure the pipeline with a null model beside bare decoding loops."""
    threads = usable_cores()
    starts: dict[str, Callable[[], Contender]] = {}
    large: list[str] = []
    sizes: list[str] = []
    for name, size, counts, modes in (
        (ORDINARY_SIZE, ORDINARY, plan.sizes.ordinary, ("off",)),
        (LARGE_SIZE, TWELVE_MEGAPIXELS, plan.sizes.large, ("off", "auto")),
    ):
        paths = _photographs(plan, sum(counts), size)
        few, many = paths[: counts[0]], paths[counts[0] :]
        folders = tuple(
            link_photographs(part, plan.workplace / f"null-{size[0]}-{len(part)}")
            for part in (few, many)
        )
        starts |= _remotes(decoding(many, (folders[0], folders[1]), name, threads, modes))
        large = paths
        megabytes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e6
        sizes.append(f"{name}: {len(paths)} files of {megabytes:.2g} MB on average")
    figures, lines = take_turns(starts, plan.sizes.rounds, plan.say)
    lines = sizes + lines
    ratios = list(ratios_of(figures, decoding_targets()))
    if plan.mobilenet is None:
        lines.append("left out: the cosine after scaled decoding: name a model with --mobilenet")
    else:
        settings = {"model": plan.mobilenet, "paths": large}
        name = f"vectors after scaled and full decoding, {LARGE_SIZE}"
        cosines, more = take_turns(
            _remotes([Contestant(name, "scaled_cosine", settings)]), 1, plan.say
        )
        figures, lines = figures + cosines, lines + more
        ratios += ratios_of(
            cosines,
            [
                Target(f"{name}: {measure}", name, None, measure, 0.999)
                for measure in ("mean cosine", "lowest cosine")
            ],
        )
    return Section("decode", tuple(figures), tuple(ratios), tuple(lines))


def measure_growth(plan: Plan) -> Section:
    """Run growth.py, and take over its table."""
    command = [sys.executable, str(Path(__file__).with_name("growth.py"))]
    if plan.sizes.growth_counts:
        command += ["--counts", *map(str, plan.sizes.growth_counts)]
    figures: list[Figure] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            plan.say(line.rstrip())
            figures += growth_figures(line)
    lines = () if process.returncode == 0 else ("growth.py failed; its messages are above",)
    return Section("growth", tuple(figures), growth_ratios(figures), lines)


def growth_figures(line: str) -> list[Figure]:
    """Return the figures of one line of growth.py's table; none for its heading."""
    row = re.match(r"(\w+) +([\d,]+) +[\d.]+ +(-?\d+) +(-?\d+) +(\d+)\s*$", line)
    if row is None:
        return []
    name = f"{row[1]}, {row[2]} images"
    measures = zip(("us/image", "CPU us/image", "peak MB"), row.groups()[2:], strict=True)
    return [Figure(name, measure, (float(value),)) for measure, value in measures]


def growth_ratios(figures: Sequence[Figure]) -> tuple[Ratio, ...]:
    """Compare the time of an image in the largest job of a scenario with that in the one below."""
    names: dict[str, list[str]] = {}
    for figure in figures:
        scenario = figure.contender.split(",")[0]
        if figure.contender not in names.setdefault(scenario, []):
            names[scenario].append(figure.contender)
    targets = []
    for of_scenario in names.values():
        *_, largest = of_scenario
        if len(of_scenario) > 1:
            below = of_scenario[-2]
            name = f"{largest} / {below}: CPU us/image"
            targets.append(Target(name, largest, below, "CPU us/image", at_most=1.2))
        targets.append(Target(f"{largest}: peak MB", largest, None, "peak MB", at_most=2000.0))
    return ratios_of(figures, targets)


def _remotes(contestants: Sequence[Contestant]) -> dict[str, Callable[[], Contender]]:
    return {contestant.name: remote(contestant) for contestant in contestants}


def _whole_processes(plan: Plan, paths: Sequence[str]) -> dict[str, Callable[[], Contender]]:
    few, many = (
        link_photographs(part, plan.workplace / f"run-{name}")
        for name, part in (
            ("few", paths[: plan.sizes.few]),
            ("many", paths[plan.sizes.few : plan.sizes.few + plan.sizes.many]),
        )
    )

    def start(precision: str) -> Callable[[], Contender]:
        flags = (f"--set=model.precision={precision}",)
        return lambda: WholeProcess(whole(precision), few, many, flags)

    return {whole(precision): start(precision) for precision in PRECISIONS}


def _photographs(plan: Plan, count: int, size: tuple[int, int]) -> list[str]:
    if plan.photographs is None or size != ORDINARY:
        plan.say(f"making {count} photographs of {size[0]} x {size[1]}")
        return make_photographs(plan.workplace / f"photographs-{size[0]}", count, size)
    paths = own_photographs(plan.photographs, count)
    if len(paths) < max(_LEAST_PHOTOGRAPHS, count):
        raise LeftOut(
            f"{plan.photographs} holds {len(paths)} JPEGs, and {count} are needed; leave "
            "--photographs out, or use --quick, which needs fewer"
        )
    return paths


def _plain_model(plan: Plan) -> tuple[str, str, float]:
    """Save the model that all engines take; return its folder, a callable one, and its GFLOP."""
    plan.say("saving the network (a stand-in with random weights) for all engines")
    folder = str(plan.workplace / "model")
    code = "import sys, limits; limits.save_plain_model(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, folder],
        check=True,
        env=quiet_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    told = json.loads(Path(folder, "facts.json").read_text())
    return folder, told["callable_model"], told["gigaflop"]


def _without_impossible(
    figures: Sequence[Figure], gigaflop: float
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    limits = {}
    for precision, peak in _peaks(figures).items():
        for figure in figures:
            if figure.contender.endswith(precision):
                limits[figure.contender] = peak / gigaflop
    return without_impossible(figures, "images/s", limits)


def _peaks(figures: Sequence[Figure]) -> Mapping[str, float]:
    """Return the fastest matrix product of each precision that was measured, in GFLOP/s."""
    peaks: dict[str, float] = {}
    for figure in figures:
        found = spread(figure.rounds)
        if figure.measure == "GFLOP/s" and found is not None:
            precision = figure.contender.rpartition(" ")[2]
            peaks[precision] = max(found.highest, peaks.get(precision, 0.0))
    return peaks


def _at_the_peak(figures: Sequence[Figure], gigaflop: float) -> list[Figure]:
    """Return how many images the fastest product would be, which is derived, not measured."""
    return [
        Figure(
            f"at the matrix peak, {precision}",
            "images/s",
            (peak / gigaflop,),
            f"derived: {peak:.0f} GFLOP/s, the fastest, over {gigaflop:.2f} GFLOP an image",
        )
        for precision, peak in _peaks(figures).items()
    ]


def _names(line: str, contenders: Mapping[str, object]) -> bool:
    return any(f": {name}" in line for name in contenders)
