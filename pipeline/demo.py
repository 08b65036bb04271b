"""The job on real photographs, with nothing to download: `python -m pipeline.demo`."""

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from pipeline.__main__ import main as run_command
from transforms.errors import RequestError
from transforms.records import Vector
from transforms.search.neighbours import nearest_neighbours

MODEL = "untrained:inception_resnet_v2"

#: One of a stereo pair, so that its nearest neighbour is known: the other one.
QUERY = "motorcycle_left.png"

#: The packages that bring photographs, and the folder that holds them there.
PHOTOGRAPHS = {"skimage": "data", "sklearn": "datasets/images"}

EXTENSIONS = frozenset({".jpg", ".png"})

#: What lies among the photographs and is none.
NO_PHOTOGRAPHS = {
    "chessboard_GRAY.png": "drawn pattern",
    "chessboard_RGB.png": "drawn pattern",
    "color.png": "drawn colour wheel",
    "horse.png": "mask",
    "logo.png": "drawing",
    "phantom.png": "diagram",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Embed the photographs and show what lies nearest to one of them.

    Returns:
        The exit status of the run: 0 done, 1 the job failed, 2 the request was wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.demo",
        description="Embed real photographs with an untrained model and show neighbours.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("demo"),
        help="where photos/ and embeddings/ are written (default: demo)",
    )
    folder = parser.parse_args(argv).folder
    photos, embeddings = folder / "photos", folder / "embeddings"
    try:
        count = gather_photographs(photos)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} photographs from {' and '.join(PHOTOGRAPHS)} are in {photos}", flush=True)
    request = ["--input", str(photos), "--output", str(embeddings), "--model", MODEL]
    status = run_command(["run", *request, "--overwrite"])
    if status == 0:
        # Loaded late: a demo that cannot start answers at once.
        from transforms.search.read_embeddings import read_embeddings

        table = read_embeddings(embeddings)
        print(f"\n{neighbour_table(table.uris, table.vectors, QUERY, count=5)}")
    return status


def gather_photographs(folder: Path) -> int:
    """Copy the photographs of the installed packages into `folder`; return how many.

    Raises:
        RequestError: a package is missing, or the folder cannot be written.
    """
    photographs = [path for package in PHOTOGRAPHS for path in find_photographs(package)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in photographs:
            shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise RequestError(f"cannot write the photographs into {folder}: {error}") from error
    return len(photographs)


def find_photographs(package: str) -> list[Path]:
    """Return the photographs that a package of `PHOTOGRAPHS` carries, without importing it.

    Raises:
        RequestError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RequestError(
            f"the demo takes its photographs from {package}, which is not installed; "
            "install them with: pip install 'embed-images[demo]'"
        )
    folder = Path(spec.origin).parent / PHOTOGRAPHS[package]
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in EXTENSIONS and path.name not in NO_PHOTOGRAPHS
    )


def neighbour_table(uris: Sequence[str], vectors: Vector, query: str, count: int) -> str:
    """Return a table of the images nearest to the one whose file name is `query`.

    Args:
        uris: of the images, one for each row of `vectors`.
        vectors: `float32 [n, width]`.
        query: a file name among `uris`.
        count: how many neighbours; the query itself is not one.
    """
    names = [PurePath(uri).name for uri in uris]
    place = names.index(query)
    rows, cosines = nearest_neighbours(vectors, vectors[place], count + 1)
    others = [(c, names[row]) for row, c in zip(rows, cosines, strict=True) if row != place]
    lines = [
        f"Nearest to {query} by cosine, according to {MODEL}",
        "(its weights are random: likeness of texture and colour, not of meaning)",
        "",
        "rank  cosine  file",
    ]
    for rank, (cosine, name) in enumerate(others[:count], start=1):
        lines.append(f"{rank:>4}  {cosine:6.3f}  {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
