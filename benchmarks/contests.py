"""Who is measured beside whom, and what is asked of the ratios."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from contenders import Contestant, LeftOut, Measures, RemoteContender
from measuring import Figure, Target

PRECISIONS = ("float32", "bfloat16")
LEGACY_KERAS = (("TF_USE_LEGACY_KERAS", "1"),)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; the same for all contenders of a table."""

    rounds: int = 5
    repetitions: int = 8
    """Of the matrix product, a round."""
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    """The best of them is searched for each bare network."""
    images: int = 64
    """For a bare network, a round."""
    peer_images: int = 160
    """More than a batch, which tells apart what starting Beam costs."""
    few: int = 32
    """For a whole process; its start-up is what this and the next one tell apart."""
    many: int = 416
    ordinary: tuple[int, int] = (64, 2112)
    """Photographs for the null model; few and many."""
    large: tuple[int, int] = (4, 68)
    """Of twelve megapixels."""
    stage_seconds: float = 0.5
    growth_counts: tuple[int, ...] = ()
    """None named: those of growth.py."""


QUICK = Sizes(
    rounds=2,
    repetitions=2,
    batch_sizes=(16,),
    images=16,
    peer_images=64,
    few=32,
    many=96,
    ordinary=(32, 544),
    large=(2, 14),
    stage_seconds=0.1,
    growth_counts=(100, 1000),
)

BATCH_SIZE = 32
"""Of those that are not searched for a better one: the default of the job."""


def bare_networks(sizes: Sizes, model: str) -> list[Contestant]:
    """Matrix products, and the network alone in two engines."""
    contestants = []
    for precision in PRECISIONS:
        settings = {"precision": precision, "repetitions": sizes.repetitions}
        contestants += [
            Contestant(f"matrix product, {engine}, {precision}", kind, settings)
            for engine, kind in (
                ("TensorFlow", "matrix_peak"),
                ("OpenVINO", "matrix_peak_openvino"),
            )
        ]
        settings = {
            "model": model,
            "precision": precision,
            "batch_sizes": sizes.batch_sizes,
            "images": sizes.images,
        }
        contestants += [
            Contestant(f"{engine} alone, {precision}", kind, settings)
            for engine, kind in (("TensorFlow", "tensorflow"), ("OpenVINO", "openvino"))
        ]
    return contestants


def peers(
    sizes: Sizes, model: str, callable_model: str, paths: Sequence[str], threads: int
) -> list[Contestant]:
    """Other ways from files to vectors."""
    settings = {"model": model, "paths": list(paths), "batch_size": BATCH_SIZE}
    loop = {"batch_sizes": sizes.batch_sizes, "threads": threads}
    return [
        Contestant("VectorHub's way, float32", "one_by_one", settings),
        Contestant("Keras predict over tf.data, float32", "keras_predict", settings),
        Contestant(
            "Beam's TensorFlow handler, float32",
            "beam_stock",
            settings | {"callable_model": callable_model},
            LEGACY_KERAS,
        ),
        *(
            Contestant(
                f"OpenVINO and a decode loop, {precision}",
                "openvino_loop",
                settings | loop | {"precision": precision},
            )
            for precision in PRECISIONS
        ),
    ]


def handlers(sizes: Sizes) -> list[Contestant]:
    """The model handler of the job, alone."""
    return [
        Contestant(
            f"our handler alone, {precision}",
            "handler",
            {"precision": precision, "batch_size": BATCH_SIZE, "images": sizes.images},
        )
        for precision in PRECISIONS
    ]


def whole(precision: str) -> str:
    """Return the name of the whole process."""
    return f"embed-images run, {precision}"


def network_targets() -> list[Target]:
    """What is asked of `embed-images run`, and what explains it."""
    rate = "images/s"
    targets = []
    for precision in PRECISIONS:
        ours, handler = whole(precision), f"our handler alone, {precision}"
        tensorflow, openvino = f"TensorFlow alone, {precision}", f"OpenVINO alone, {precision}"
        least = 0.82 if precision == "bfloat16" else None
        targets += [
            Target(f"{ours} / {tensorflow}", ours, tensorflow, rate, 0.93),
            Target(f"{ours} / {openvino}", ours, openvino, rate, least),
            Target(f"{handler} / {tensorflow}", handler, tensorflow, rate),
            Target(f"{ours} / {handler}", ours, handler, rate),
            # The processor's time, where the machine has other work: it should be the other's.
            processor_time(tensorflow, ours),
            processor_time(openvino, ours),
            Target(f"{ours}: peak GB", ours, None, "peak GB", at_most=3.0),
        ]
    for peer in (
        "VectorHub's way",
        "Keras predict over tf.data",
        "Beam's TensorFlow handler",
        "OpenVINO and a decode loop",
    ):
        theirs = f"{peer}, float32"
        targets.append(Target(f"{whole('float32')} / {theirs}", whole("float32"), theirs, rate))
        targets.append(
            Target(f"{whole('bfloat16')} / {theirs}", whole("bfloat16"), theirs, rate, 1.5)
        )
    theirs = "OpenVINO and a decode loop, bfloat16"
    targets.append(Target(f"{whole('bfloat16')} / {theirs}", whole("bfloat16"), theirs, rate))
    return targets


def processor_time(one: str, other: str) -> Target:
    """Return the ratio of the processor times of an image, which other work disturbs less."""
    return Target(f"CPU time: {one} / {other}", one, other, "CPU ms/image")


def decoding(
    paths: Sequence[str], folders: tuple[str, str], size: str, threads: int, scaled: Sequence[str]
) -> list[Contestant]:
    """The bare loop and the pipeline, in full and with scaled decoding."""
    few, many = folders
    return [
        contestant
        for mode in scaled
        for contestant in (
            Contestant(
                decoder("decode loop", size, mode),
                "decode_loop",
                {"paths": list(paths), "threads": threads, "scaled_decoding": mode},
            ),
            Contestant(
                decoder("pipeline with a null model", size, mode),
                "null_pipeline",
                {"few": few, "many": many, "scaled_decoding": mode},
            ),
        )
    ]


def decoder(what: str, size: str, mode: str) -> str:
    """Return the name of a loop or a pipeline."""
    return f"{what}, {size}, {'scaled' if mode == 'auto' else 'full'} decoding"


ORDINARY_SIZE, LARGE_SIZE = "500 x 375", "12 megapixels"


def decoding_targets() -> list[Target]:
    """What is asked of the pipeline with a null model."""
    rate, loop, ours = "images/s", "decode loop", "pipeline with a null model"
    full = decoder(loop, LARGE_SIZE, "off")
    pairs = [
        (decoder(ours, ORDINARY_SIZE, "off"), decoder(loop, ORDINARY_SIZE, "off"), 0.8),
        (decoder(ours, LARGE_SIZE, "auto"), full, 3.0),
        (decoder(ours, LARGE_SIZE, "off"), full, None),
        (decoder(loop, LARGE_SIZE, "auto"), full, None),
    ]
    ratios = [Target(f"{one} / {other}", one, other, rate, least) for one, other, least in pairs]
    return [*ratios, *(processor_time(other, one) for one, other, _ in pairs)]


def stage_targets() -> list[Target]:
    """What is asked of the codec of tf.Example."""
    return [
        Target(f"{way} / {other}", way, other, "images/s", least)
        for way in ("encode", "decode")
        for other, least in ((f"{way}, tfx-bsl alone", 0.8), (f"{way}, tf.train.Example", 4.0))
    ]


class Contender(Protocol):
    """What can be measured by turns."""

    name: str
    note: str

    def measure(self) -> Measures:
        """Measure once."""

    def close(self) -> None:
        """Give back what it holds."""


def remote(contestant: Contestant) -> Callable[[], Contender]:
    """Return what starts the contestant in a process of its own."""
    return lambda: RemoteContender(contestant)


def take_turns(
    starts: Mapping[str, Callable[[], Contender]], rounds: int, say: Callable[[str], None]
) -> tuple[list[Figure], list[str]]:
    """Start all contenders, and measure each of them once a round.

    Every round begins with another one, so that none always comes after the same.

    Args:
        starts: what starts each contender, by its name.
        rounds: how many.
        say: takes a line about how far it is.

    Returns:
        The figures in the order of the contenders, and a line about each one that was left out.
    """
    contenders: list[Contender] = []
    lines: list[str] = []
    figures: dict[tuple[str, str], list[float | None]] = {}

    def attempt(name: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except LeftOut as error:
            lines.append(f"left out: {name}: {error}")
            say(lines[-1])
            return False
        return True

    try:
        for name, start in starts.items():
            say(f"making ready: {name}")
            attempt(name, partial(_start, start, contenders))
        for number in range(rounds):
            for contender in _rotated(contenders, number):
                say(f"round {number + 1} of {rounds}: {contender.name}")

                if not attempt(contender.name, partial(_measure, contender, figures)):
                    contender.close()
                    contenders.remove(contender)
    finally:
        for contender in contenders:
            contender.close()
    notes = {contender.name: contender.note for contender in contenders}
    ordered = sorted(figures, key=lambda key: list(starts).index(key[0]))
    return [
        Figure(name, measure, tuple(figures[name, measure]), notes[name])
        for name, measure in ordered
        if name in notes
    ], lines


def _start(start: Callable[[], Contender], contenders: list[Contender]) -> None:
    contenders.append(start())


def _measure(contender: Contender, figures: dict[tuple[str, str], list[float | None]]) -> None:
    for measure, figure in contender.measure().items():
        figures.setdefault((contender.name, measure), []).append(figure)


def _rotated(contenders: Sequence[Contender], number: int) -> Iterator[Contender]:
    first = number % max(len(contenders), 1)
    yield from [*contenders[first:], *contenders[:first]]
