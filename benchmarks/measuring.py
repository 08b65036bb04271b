"""Figures of several rounds, and the ratios between them: arithmetic only, nothing is timed here.

Every contender is measured once a round, one after the other, so that a machine whose speed drifts
slows all of them down. A ratio is that of two figures of the same round.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Rounds = tuple[float | None, ...]
"""One figure a round, None where it was thrown out."""


class Spread(NamedTuple):
    """The middle of some figures, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured of one contender, once a round."""

    contender: str
    measure: str
    """With its unit, such as images/s."""
    rounds: Rounds
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio, or one figure alone, that is to be reached."""

    name: str
    contender: str
    over: str | None
    """The contender that it is divided by; None: the figure itself."""
    measure: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure over another one, round by round, and what it should be."""

    name: str
    rounds: Rounds
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the median is as it should be; None where nothing is asked of it."""
        middle = spread(self.rounds)
        if middle is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or middle.median >= self.at_least) and (
            self.at_most is None or middle.median <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the results."""

    name: str
    figures: tuple[Figure, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    notes: tuple[str, ...] = ()


def spread(rounds: Sequence[float | None]) -> Spread | None:
    """Return the median and the range of what was not thrown out; None where nothing is left.

    Example:
        >>> spread([3.0, None, 1.0, 2.0])
        Spread(median=2.0, lowest=1.0, highest=3.0)
    """
    left = [figure for figure in rounds if figure is not None]
    return Spread(statistics.median(left), min(left), max(left)) if left else None


def ratio_rounds(these: Rounds, those: Rounds) -> Rounds:
    """Return the ratios of the same rounds; None where one of the two was thrown out.

    Raises:
        ValueError: they do not have the same number of rounds.
    """
    return tuple(
        None if this is None or that is None else this / that
        for this, that in zip(these, those, strict=True)
    )


def ratios_of(figures: Sequence[Figure], targets: Sequence[Target]) -> tuple[Ratio, ...]:
    """Return the ratios whose contenders were both measured."""
    found = {(figure.contender, figure.measure): figure.rounds for figure in figures}
    ratios = []
    for target in targets:
        rounds = found.get((target.contender, target.measure))
        if rounds is not None and target.over is not None:
            others = found.get((target.over, target.measure))
            rounds = None if others is None else ratio_rounds(rounds, others)
        if rounds is not None:
            ratios.append(Ratio(target.name, rounds, target.at_least, target.at_most))
    return tuple(ratios)


def without_impossible(
    figures: Sequence[Figure], measure: str, limits: Mapping[str, float]
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Throw out the figures that lie above what the machine can do at all.

    Args:
        figures: of any measures.
        measure: which of them have a limit, such as images/s.
        limits: the highest possible figure of some contenders, by their names.

    Returns:
        The figures, with None in the place of each impossible one, and a line about each.
    """
    kept, lines = [], []
    for figure in figures:
        limit = limits.get(figure.contender) if figure.measure == measure else None
        rounds = list(figure.rounds)
        for number, value in enumerate(rounds):
            if limit is not None and value is not None and value > limit:
                rounds[number] = None
                lines.append(
                    f"thrown out: {figure.contender}, round {number + 1}: {value:.1f} "
                    f"{figure.measure} is above the {limit:.1f} of the measured matrix peak"
                )
        kept.append(replace(figure, rounds=tuple(rounds)))
    return tuple(kept), tuple(lines)


def section_from_json(section: Mapping[str, Any]) -> Section:
    """Return a section as it was before `dataclasses.asdict` and JSON."""
    return Section(
        name=section["name"],
        figures=tuple(
            Figure(**each | {"rounds": tuple(each["rounds"])}) for each in section["figures"]
        ),
        ratios=tuple(
            Ratio(**each | {"rounds": tuple(each["rounds"])}) for each in section["ratios"]
        ),
        notes=tuple(section["notes"]),
    )
