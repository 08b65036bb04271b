"""A page with the pictures that a search has found: one file, for a browser.

Nothing in it comes from outside: the pictures are decoded with the limits of the job, made small
and written anew, so that no byte of a stranger's file gets into the page; every text is escaped;
and its Content-Security-Policy forbids scripts and all that would have to be fetched.
"""

import base64
import html
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from pipeline.search_report import Neighbour, SearchResult, carried_text, judge, printable
from transforms.errors import ImageError
from transforms.images.image_codec import decode_image
from transforms.records import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    ImageRef,
    Preprocessing,
)
from transforms.sources.image_reading import read_image
from transforms.storage.file_listing import is_http
from transforms.storage.http_source import HttpSettings, shown_url

#: Of the longer side, in pixels: sharp at the width of a tile on most screens, some 20 kB each.
THUMBNAIL_SIDE = 320

#: A picture may have a quarter of a gigabyte of pixels, so not many at once.
_READING_THREADS = 4

_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG, or the reason why there is none."""

    jpeg: bytes | None
    height: int = 0
    width: int = 0
    note: str = ""
    """What to know of it, or why it is missing."""


def read_pictures(
    neighbours: Sequence[Neighbour],
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    http: HttpSettings = HttpSettings(),
) -> list[Picture]:
    """Read the pictures of the neighbours as they are now, in their order.

    One that cannot be read says why, and one whose file is another than was embedded says that.
    """

    def read(neighbour: Neighbour) -> Picture:
        try:
            raw = read_image(ImageRef(neighbour.uri), max_bytes, http)
        except ImageError as error:
            return Picture(None, note=f"{type(error).__name__}: {error}")
        except Exception as error:  # The clients of the clouds raise errors of many kinds.
            return Picture(None, note=f"it cannot be read: {type(error).__name__}: {error}")
        changed = raw.sha256 != neighbour.sha256
        note = "the file has changed since it was embedded" if changed else ""
        return thumbnail(raw.content, max_pixels, note)

    with ThreadPoolExecutor(_READING_THREADS, "read-pictures") as threads:
        return list(threads.map(read, neighbours))


def thumbnail(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, note: str = "") -> Picture:
    """Return the image small, upright and whole, as a JPEG without any metadata.

    Example:
        >>> thumbnail(b"").note
        'UndecodableImage: the file is empty'
    """
    side = THUMBNAIL_SIDE
    preprocessing = Preprocessing(height=side, width=side, fit="pad", scaled_decoding="auto")
    try:
        decoded = decode_image(content, preprocessing, max_pixels)
    except ImageError as error:
        notes = [each for each in (f"{type(error).__name__}: {error}", note) if each]
        return Picture(None, note="; ".join(notes))
    # Without the bands of "pad": the same arithmetic as there.
    scale = min(side / decoded.width, side / decoded.height)
    width, height = (max(1, round(each * scale)) for each in (decoded.width, decoded.height))
    left, top = (side - width) // 2, (side - height) // 2
    pixels = decoded.pixels[top : top + height, left : left + width]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return Picture(file.getvalue(), height, width, note)


def contact_sheet(result: SearchResult, query: Picture, pictures: Sequence[Picture]) -> str:
    """Return the page, as HTML.

    Args:
        result: what was found.
        query: the image that was searched for.
        pictures: of the neighbours, in their order.
    """
    tiles = "\n".join(
        _tile(rank, neighbour, picture)
        for rank, (neighbour, picture) in enumerate(
            zip(result.neighbours, pictures, strict=True), start=1
        )
    )
    how = "every row was compared" if result.exact else "an index may have been used"
    title = _escaped(f"Nearest to {_shown(result.image)}")
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<figure class="query">
{_image(query, "the image that was searched for")}
<figcaption>
<h1>{title}</h1>
<p>{html.escape(judge(result))}</p>
<p>{len(result.neighbours)} images of {_escaped(result.location)}; {how}.</p>
</figcaption>
</figure>
</header>
<main>
<ol>
{tiles}
</ol>
</main>
</body>
</html>
"""


def _tile(rank: int, neighbour: Neighbour, picture: Picture) -> str:
    carried = "".join(
        f"<dt>{_escaped(name)}</dt><dd>{html.escape(carried_text(value))}</dd>"
        for name, value in neighbour.carried.items()
    )
    size = f"{neighbour.width} x {neighbour.height}, {_escaped(neighbour.format)}"
    note = picture.note if picture.jpeg is not None else ""
    return f"""\
<li>
<figure>
{_image(picture, f"rank {rank}")}
<figcaption>
<p><b>{rank}</b> <span class="cosine">{neighbour.cosine:.3f}</span> <small>{size}</small></p>
<p class="uri"><bdi>{_escaped(_shown(neighbour.uri))}</bdi></p>
{f"<dl>{carried}</dl>" if carried else ""}{f'<p class="note">{_escaped(note)}</p>' if note else ""}
</figcaption>
</figure>
</li>"""


def _image(picture: Picture, alternative: str) -> str:
    if picture.jpeg is None:
        return f'<div class="missing" role="img"><p>{_escaped(picture.note)}</p></div>'
    data = base64.b64encode(picture.jpeg).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{picture.width}" '
        f'height="{picture.height}" alt="{html.escape(alternative)}">'
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _shown(uri: str) -> str:
    """Return the URI without what may be a secret, since a page is passed on."""
    return shown_url(uri) if is_http(uri) else uri


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem;
  font: 1rem/1.4 system-ui, sans-serif; color: CanvasText; background: Canvas; }
figure, p, ol, dl, h1 { margin: 0; padding: 0; }
h1 { font-size: 1.2rem; overflow-wrap: anywhere; }
header p { margin-top: .4rem; overflow-wrap: anywhere; }
.query { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start;
  padding-bottom: 1rem; border-bottom: 1px solid var(--line); }
.query figcaption { flex: 1 1 16rem; }
ol { list-style: none; display: grid; gap: 1rem; padding-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); }
li { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
li img, .missing { display: block; width: 100%; height: 12rem; object-fit: contain;
  background: #8882; }
.query img, .query .missing { max-width: 100%; width: auto; height: auto; border-radius: .5rem; }
.missing { display: grid; place-items: center; padding: 1rem; overflow: auto; }
.missing p, .note { font-size: .85rem; overflow-wrap: anywhere; }
li figcaption { padding: .6rem; }
.cosine { font-variant-numeric: tabular-nums; }
small, dt, .note, .missing p { opacity: .75; }
.uri { font-size: .85rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
