"""What a file is that no decoder opens."""

# How bytes that no decoder opens are called in the message: (offset, signature, name).
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "a JPEG with a broken or unsupported header"),
    (0, b"\x89PNG", "a PNG with a broken or unsupported header"),
    (0, b"GIF8", "a GIF with a broken or unsupported header"),
    (8, b"WEBP", "a WebP with a broken or unsupported header"),
    (0, b"BM", "a BMP with a broken or unsupported header"),
    (0, b"II*\0", "a TIFF with a broken or unsupported header"),
    (0, b"MM\0*", "a TIFF with a broken or unsupported header"),
    (4, b"ftypavif", "an AVIF with a broken or unsupported header"),
    (4, b"ftyphei", "a HEIC with a broken or unsupported header"),
    (4, b"ftypmif1", "a HEIF with a broken or unsupported header"),
    (4, b"ftyp", "a video (MP4 or QuickTime)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\1\0", "an ICO icon"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\0" * 16, "zeros, as a failed copy leaves behind"),
)
# The same for text, looked for anywhere near its start.
_MARKUP = (
    (b"<svg", "an SVG drawing"),
    (b"<html", "an HTML page"),
    (b"<!doctype html", "an HTML page"),
    (b"<?xml", "an XML document"),
)


def describe_content(content: bytes) -> str:
    """Say what the bytes of a file look like, judged by how they begin; never quotes them.

    Example:
        >>> describe_content(b"%PDF-1.7")
        'it looks like a PDF document'
    """
    known = [name for at, signature, name in _SIGNATURES if content.startswith(signature, at)]
    text = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        known += [name for tag, name in _MARKUP if tag in text]
    elif text.startswith((b"{", b"[")):
        known.append("JSON")
    elif text.isascii() and text.translate(None, b"\r\n\t").decode().isprintable():
        known.append("text")
    return f"it looks like {known[0]}" if known else "its first bytes are of no known kind"
