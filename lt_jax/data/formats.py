"""Recognises image formats by their first bytes and by file name extensions."""

import re

from PIL import Image, features

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
SIDE_FILES = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".ini", ".cfg", ".db", ".log",
    ".html", ".pdf", ".py", ".npy", ".npz", ".mat", ".h5", ".zip", ".gz", ".tar",
)  # fmt: skip
MODERN = {".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF"}  # read if Pillow can
FIRST_BYTES = 32  # number of bytes that `of` needs
_PREFIXES = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"II*\0": "TIFF",
    b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000", b"qoif": "QOI", b"8BPS\0\x01": "PSD", b"DDS \x7c\0\0\0": "DDS",
}  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)
_NAMES_OF_PILLOW = {"HEIC": "HEIF", "PNM": "PPM"}
_CODECS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_PNM = re.compile(rb"P[1-6]\s+(#|\d)")
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def of(first: bytes) -> str | None:
    """Name of the image format of a file with these first bytes; None if unknown."""
    for prefix, name in _PREFIXES.items():
        if first.startswith(prefix):
            return name
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "WEBP"
    if first[4:8] == b"ftyp":
        brands = [first[8:12], *(first[i : i + 4] for i in range(16, FIRST_BYTES, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if first[:2] == b"BM" and int.from_bytes(first[14:18], "little") in _BITMAP_HEADERS:
        return "BMP"
    return "PNM" if _PNM.match(first) else None


def is_readable(name: str) -> bool:
    """Whether the installed Pillow opens the format: AVIF depends on the build, HEIC on a plug-in."""
    Image.init()
    if _NAMES_OF_PILLOW.get(name, name) not in Image.OPEN:
        return False
    return name not in _CODECS or bool(features.check(_CODECS[name]))
