"""The page of `search --html`: pictures and texts from strangers, made harmless."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import ExifTags, Image
from sample_images import FORMATS, corrupt_images, encode, image_bytes, jpeg_bytes, natural_image
from searchable import embed_images, write_output
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.contact_sheet import THUMBNAIL_SIDE, contact_sheet, read_pictures, thumbnail
from pipeline.search_report import Neighbour, SearchResult
from transforms.formats.embedding_table import Provenance
from transforms.records import CarriedColumn

#: Elements of HTML that have no end tag.
VOID = ("meta", "img", "br", "link", "input")


class Page(HTMLParser):
    """The elements of a page, which must be closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open and data.strip():
            self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self):
        prefix = "data:image/jpeg;base64,"
        sources = [attributes["src"] for attributes in self.all("img")]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source[len(prefix) :], validate=True) for source in sources]


def neighbour(uri, content, **carried):
    return Neighbour(0.5, str(uri), hashlib.sha256(content).hexdigest(), "JPEG", 48, 64, carried)


def page_of(neighbours, image="query.jpg", pictures=None):
    provenance = Provenance("/models/<m>", "f" * 16, "p" * 16)
    result = SearchResult(image, "out & more", provenance, True, True, neighbours)
    query = thumbnail(jpeg_bytes())
    return contact_sheet(result, query, pictures or read_pictures(neighbours))


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(64, 48, seed=number))
    return sorted(folder.iterdir())


def test_the_command_writes_a_page_with_every_picture(photographs, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    embedded = embed_images(
        photographs, model, columns=(CarriedColumn("label"),), carried=[("<b>cat",)] * 4
    )
    out = write_output(tmp_path / "out", embedded)
    file = tmp_path / "sheet.html"
    file.write_text("an older page")
    arguments = [photographs[1], "--in", out, "--count=3", "--html", file]
    assert main(["search", *map(str, arguments)]) == 0
    said = capsys.readouterr()
    assert f"the pictures are in {file}" in said.err
    assert "rank  cosine  uri" in said.out
    page = Page(file.read_text())
    pictures = [np.asarray(Image.open(io.BytesIO(each))) for each in page.pictures()]
    assert [each.shape for each in pictures] == [(240, 320, 3)] * 4
    # The query, and the same picture as its nearest neighbour.
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    assert page.texts.count("<b>cat") == 3
    assert str(photographs[1]) in page.texts
    assert [*tmp_path.glob("*.tmp*")] == []


def test_nothing_of_the_page_comes_from_outside_or_runs(photographs):
    page = Page(page_of([neighbour(path, path.read_bytes()) for path in photographs]))
    assert {"script", "link", "a", "iframe", "object", "form"}.isdisjoint(
        name for name, _ in page.elements
    )
    assert {name for _, attributes in page.elements for name in attributes} == {
        *("lang", "charset", "http-equiv", "content", "name", "class", "src", "width"),
        *("height", "alt"),
    }
    [policy] = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in page_of([])
    assert "@import" not in page_of([])


@pytest.mark.parametrize(
    "name",
    [
        '"><script>alert(1)</script>.jpg',
        "' onerror='alert(1)",
        "</bdi></p><img src=x onerror=alert(1)>",
        "<!-- ]]> & &lt;",
        "\u202egpj.exe",
        "a\x00b\x1b[2J",
    ],
)
def test_a_name_cannot_become_markup(name):
    one = neighbour(f"/photos/{name}", b"", **{name: name})
    page = Page(page_of([one], image=name))
    plain = Page(page_of([neighbour("/photos/a.jpg", b"", label="a")], image="a.jpg"))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert all(text.isprintable() for text in page.texts if "\n" not in text)


def test_a_picture_that_is_gone_has_a_placeholder_with_the_reason(photographs, tmp_path):
    rows = [neighbour(path, path.read_bytes()) for path in photographs]
    photographs[0].unlink()
    photographs[1].write_bytes(b"not an image any more")
    photographs[2].write_bytes(jpeg_bytes(seed=77))
    rows.append(neighbour("gs://", b""))
    page = Page(page_of(rows))
    assert len(page.pictures()) == 1 + 2
    assert [each.get("class") for each in page.all("div")] == ["missing"] * 3
    texts = "\n".join(page.texts)
    assert f"ImageNotFound: there is no file at {photographs[0]}" in texts
    assert "UndecodableImage: no decoder" in texts
    assert texts.count("the file has changed since it was embedded") == 2


def test_a_picture_beyond_the_limits_is_not_decoded(tmp_path):
    content = jpeg_bytes(64, 48)
    (tmp_path / "a.jpg").write_bytes(content)
    rows = [neighbour(tmp_path / "a.jpg", content)]
    [many_pixels] = read_pictures(rows, max_pixels=64 * 47)
    [many_bytes] = read_pictures(rows, max_bytes=100)
    assert many_pixels.jpeg is many_bytes.jpeg is None
    assert many_pixels.note.startswith("ImageTooLarge: ")
    assert many_bytes.note.startswith("ImageTooLarge: ")


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (1000, 3), (3, 1000), (1, 1), (641, 479)])
def test_a_thumbnail_is_the_whole_picture_without_bands(image_format, size):
    if image_format in ("AVIF", "HEIF") and min(size) < 16:
        pytest.skip("its encoder takes no image so small")
    picture = thumbnail(image_bytes(image_format, *size))
    assert picture.jpeg is not None, picture.note
    small = Image.open(io.BytesIO(picture.jpeg))
    assert small.format == "JPEG"
    assert small.size == (picture.width, picture.height)
    assert max(small.size) == THUMBNAIL_SIDE
    scale = THUMBNAIL_SIDE / max(size)
    for side, original in zip(small.size, size, strict=True):
        assert side == pytest.approx(max(1, original * scale), abs=0.5)


def test_a_thumbnail_of_a_dark_picture_has_no_white_edge():
    for size in ((101, 67), (67, 101), (1999, 1001)):
        content = encode(Image.new("RGB", size, (0, 0, 0)), "JPEG")
        picture = thumbnail(content)
        assert np.asarray(Image.open(io.BytesIO(picture.jpeg))).max() < 8


def test_a_thumbnail_is_upright_and_has_no_metadata():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "somebody"
    picture = thumbnail(encode(natural_image(80, 40), "JPEG", exif=exif))
    small = Image.open(io.BytesIO(picture.jpeg))
    assert small.size == (160, 320)
    assert not small.getexif()
    assert b"somebody" not in picture.jpeg


@pytest.mark.parametrize("name", corrupt_images())
def test_a_corrupt_image_has_a_reason(name):
    picture = thumbnail(corrupt_images()[name])
    assert picture.jpeg is None
    assert re.match(r"(UndecodableImage|ImageTooLarge): .+", picture.note)


def test_an_address_is_shown_without_its_secrets():
    address = "https://user:secret@example.org/a.jpg?X-Goog-Signature=secret"
    page = page_of([], image=address)
    assert "secret" not in page
    assert "https://example.org/a.jpg?..." in page


def test_a_page_that_cannot_be_written_leaves_the_older_one(
    photographs, tmp_path, capsys, monkeypatch
):
    model = save_tiny_model(tmp_path / "model")
    out = write_output(tmp_path / "out", embed_images(photographs, model))
    place = tmp_path / "place"
    place.mkdir()
    # A name too long for the file under which it is written first.
    file = place / ("a" * 240 + ".html")
    file.write_text("an older page")
    arguments = [photographs[1], "--in", out, "--html", file]
    assert main(["search", *map(str, arguments)]) == 1
    said = capsys.readouterr()
    assert "rank  cosine  uri" in said.out
    assert "the page cannot be written to" in said.err
    assert file.read_text() == "an older page"
    assert list(place.iterdir()) == [file]
