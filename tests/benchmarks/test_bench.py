"""The harness behind `make bench`: what it makes of figures. Nothing is timed here."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from contenders import LeftOut, Measures, rate_between
from contests import take_turns
from measuring import (
    Figure,
    Ratio,
    Section,
    Target,
    ratio_rounds,
    ratios_of,
    section_from_json,
    spread,
    without_impossible,
)
from rendering import markdown
from sections import growth_figures, growth_ratios

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"


class Counting:
    """A contender whose figures are said beforehand, and which writes down its turns."""

    note = "made up"

    def __init__(self, name: str, figures: list[float | None], turns: list[str]) -> None:
        self.name = name
        self._figures = iter(figures)
        self._turns = turns

    def measure(self) -> Measures:
        self._turns.append(self.name)
        figure = next(self._figures, "ended")
        if isinstance(figure, str):
            raise LeftOut("its process ended")
        return {"images/s": figure}

    def close(self) -> None:
        self._turns.append(f"{self.name} closed")


def contest(**figures: list[float | None]) -> tuple[list[Figure], list[str], list[str]]:
    turns: list[str] = []

    def start(name: str) -> Callable[[], Counting]:
        return lambda: Counting(name, figures[name], turns)

    found, lines = take_turns({name: start(name) for name in figures}, 3, lambda line: None)
    return found, lines, turns


def test_contenders_alternate_and_every_round_begins_with_another_one() -> None:
    found, lines, turns = contest(ours=[1.0, 2.0, 3.0], theirs=[4.0, 5.0, 6.0])
    assert turns[:6] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [figure.rounds for figure in found] == [(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)]
    assert sorted(turns[6:]) == ["ours closed", "theirs closed"]
    assert lines == []


def test_a_contender_that_ends_is_left_out_with_a_line_and_the_others_go_on() -> None:
    found, lines, _ = contest(ours=[1.0, 2.0, 3.0], theirs=[4.0])
    assert [figure.contender for figure in found] == ["ours"]
    assert lines == ["left out: theirs: its process ended"]


def test_a_contender_that_cannot_start_is_left_out_with_a_line() -> None:
    def refuse() -> Counting:
        raise LeftOut("it is not installed")

    found, lines = take_turns({"theirs": refuse}, 2, lambda line: None)
    assert (found, lines) == ([], ["left out: theirs: it is not installed"])


def test_a_ratio_is_that_of_the_same_round_not_of_the_medians() -> None:
    ratios = ratio_rounds((10.0, 20.0, 90.0), (1.0, 10.0, 10.0))
    assert spread(ratios) == (9.0, 2.0, 10.0)


def test_a_round_that_was_thrown_out_of_one_has_no_ratio() -> None:
    assert ratio_rounds((10.0, None, 30.0), (5.0, 4.0, None)) == (2.0, None, None)


def test_a_ratio_needs_both_contenders() -> None:
    figures = [Figure("ours", "images/s", (2.0,))]
    targets = [Target("a", "ours", "theirs", "images/s"), Target("b", "ours", None, "images/s")]
    assert [ratio.name for ratio in ratios_of(figures, targets)] == ["b"]


def test_a_figure_above_the_peak_is_thrown_out_and_a_line_says_so() -> None:
    figures = [
        Figure("ours", "images/s", (17.0, 19.0)),
        Figure("ours", "CPU ms/image", (130.0, 110.0)),
        Figure("theirs", "images/s", (50.0, 50.0)),
    ]
    kept, lines = without_impossible(figures, "images/s", {"ours": 18.0})
    assert [figure.rounds for figure in kept] == [(17.0, None), (130.0, 110.0), (50.0, 50.0)]
    assert len(lines) == 1
    assert "ours, round 2: 19.0 images/s" in lines[0]


def test_noise_that_makes_the_larger_job_the_faster_one_gives_no_rate() -> None:
    measures = rate_between((10, 5.0, 1.0), (30, 4.0, 3.0))
    assert measures["images/s"] is None
    assert measures["CPU ms/image"] == pytest.approx(100.0)
    assert measures["images/s, start-up included"] == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("rounds", "at_least", "at_most", "holds"),
    [
        ((0.9, 1.0, 0.1), 0.9, None, True),
        ((0.9, 0.8, 0.7), 0.9, None, False),
        ((2.0,), None, 3.0, True),
        ((4.0,), None, 3.0, False),
        ((4.0,), None, None, None),
        ((None,), 1.0, None, None),
    ],
)
def test_a_target_is_held_by_the_median(
    rounds: tuple[float | None, ...],
    at_least: float | None,
    at_most: float | None,
    holds: bool | None,
) -> None:
    assert Ratio("ratio", rounds, at_least, at_most).holds is holds


GROWTH_TABLE = """\
             images  seconds  us/image  CPU us peak MB
plain         1,000      4.2       901     850      301
plain        10,000      9.9       600     550      322
plain       100,000     58.0       602     577    2,100
"""


def test_the_table_of_growth_is_taken_over_and_judged() -> None:
    table = GROWTH_TABLE.replace("2,100", "2100")
    figures = [figure for line in table.splitlines() for figure in growth_figures(line)]
    assert [figure.rounds for figure in figures[-3:]] == [(602.0,), (577.0,), (2100.0,)]
    time_of_an_image, memory = growth_ratios(figures)
    assert time_of_an_image.rounds == (pytest.approx(577 / 550),)
    assert (time_of_an_image.holds, memory.holds) == (True, False)


def results(section: Section) -> dict[str, object]:
    return {
        "started_at": "2026-11-20T10:00:00+00:00",
        "command": "python benchmarks/bench.py",
        "machine": {
            "processor": "a processor",
            "instructions": ["avx2"],
            "cores": 2,
            "memory_gib": 24.0,
            "load": 0.5,
            "versions": {"Python": "3.11.7"},
        },
        "sections": [asdict(section)],
    }


SECTION = Section(
    "ours",
    (Figure("ours", "images/s", (30.0, None, 31.0), "batches of 32"),),
    (Ratio("ours / theirs", (0.9, 0.95), at_least=0.93), Ratio("other", (None,))),
    ("left out: theirs: it is not installed",),
)


def test_sections_survive_json() -> None:
    assert section_from_json(json.loads(json.dumps(asdict(SECTION)))) == SECTION


def test_markdown_shows_median_and_range_target_and_verdict() -> None:
    text = markdown(results(SECTION))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["ours", "images/s", "30.5 (30 to 31)", "batches of 32"] in cells
    assert ["ours / theirs", "0.925 (0.9 to 0.95)", "at least 0.93", "**missed**"] in cells
    assert ["other", "none", "", ""] in cells
    assert "- left out: theirs: it is not installed" in text
    assert "on 2 cores of a processor (avx2)" in text


def test_the_command_prints_the_tables_of_earlier_results(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(SECTION)))
    command = [sys.executable, str(BENCH), "--markdown", str(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == markdown(results(SECTION))
