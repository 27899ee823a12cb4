"""Converts PIL images to uint8 RGB pixels: rotated, composited on a background, scaled by the format's range."""

import io
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from lt_jax.core import errors

BACKGROUND = (255, 255, 255)  # white, behind transparent pixels
MOST_TEXT = 64 << 20  # bytes of text in a PNG file; the default of Pillow is one MiB per chunk
_SLACK = 1e-6  # tolerance of float pixels, for rounding
_BITS, _SAMPLE_FORMAT = 258, 339  # TIFF tags
_changing_limits = threading.Lock()


def rgb_of_bytes(content: bytes, upright: bool) -> np.ndarray:
    """Pixels of an encoded image. Raises the errors of `rgb` and of Pillow."""
    try:
        return rgb(_open(content), upright)
    except ValueError as error:
        if not _is_about_text(error):
            raise
    with _changing_limits:
        before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT
        try:
            return rgb(_open(content, locked=True), upright)
        except ValueError as error:
            if not _is_about_text(error):
                raise
            raise errors.BadInput(is_a_limit(error)) from error
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


def rgb(opened: Any, upright: bool) -> np.ndarray:
    """Pixels of a PIL image, uint8 (h, w, 3).

    Raises:
      BadInput: more pixels than the limit, or pixels outside the format's range. The message starts with the reason.
    """
    top = _top(opened)  # read first: a rotated copy does not know its format
    opened.load()
    if upright:
        opened = _turned(opened)
    if opened.mode == "F" or opened.mode.startswith("I"):
        return _from_deep(opened, *top)
    if opened.has_transparency_data:
        opened = (opened.convert("LA") if opened.mode == "La" else opened).convert("RGBA")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, (*BACKGROUND, 255)), opened)
    return np.array(opened.convert("RGB"))


def limit() -> int | None:
    """Largest number of pixels of an image: Pillow's bound, which a program may change; None = no limit."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def is_a_limit(error: Exception) -> str:
    """Message for an image that exceeds a limit of Pillow or the memory; empty for other errors."""
    if isinstance(error, ValueError) and _is_about_text(error):
        most = PngImagePlugin.MAX_TEXT_CHUNK >> 20
        return f"the text in this PNG file takes more than the limit of {most} MiB; save the file without it"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {limit()}; make it smaller"
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine; make it smaller"
    return ""


def _open(content: bytes, locked: bool = False) -> Any:
    """Opens without Pillow's check, which warns at half of its limit; checks the limit before decoding."""
    if not locked:
        with _changing_limits:
            return _open(content, locked=True)
    most = limit()
    allowed = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        opened = Image.open(io.BytesIO(content))
    finally:
        Image.MAX_IMAGE_PIXELS = allowed
    width, height = opened.size
    if most is not None and width * height > most:
        raise errors.BadInput(f"{width} x {height} pixels are more than the limit of {most}; make it smaller")
    return opened


def _is_about_text(error: Any) -> Any:
    message = str(error).lower()
    return "decompressed data too large" in message or "max_text" in message


def _turned(opened: Any) -> Any:
    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # Pillow raises many types for tags it cannot parse; ignore such tags
        return opened


def _top(opened: Any) -> tuple[Any, ...]:
    """(kind, largest value) of pixels of more than 8 bit, from the format, not from the image content."""
    if opened.mode == "F":
        return "float", 1.0
    tags = getattr(opened, "tag_v2", {})
    bits = int(np.ravel(tags.get(_BITS, 16))[0])
    signed = int(np.ravel(tags.get(_SAMPLE_FORMAT, 1))[0]) == 2
    return f"{bits}-bit", float(2 ** (bits - 1) - 1 if signed else 2**bits - 1)


def _from_deep(opened: Any, kind: Any, top: Any) -> Any:
    """RGB of grey pixels of more than 8 bit; Pillow's conversion would clip them at 255 instead of scaling."""
    pixels = np.asarray(opened)
    if top == 2.0**32 - 1:
        pixels = pixels.view(np.uint32)  # Pillow has only signed integers
    slack = _SLACK if kind == "float" else 0.0
    low, high = pixels.min(), pixels.max()
    if not (low >= -slack and high <= top + slack):
        bounds = "[0, 1]" if kind == "float" else f"0..{top:.0f}"
        raise errors.BadInput(f"{kind} pixels must lie in {bounds}, found {low:.9g}..{high:.9g}; scale them to 8 bit")
    grey = (np.clip(pixels / top, 0.0, 1.0) * 255).round().astype(np.uint8)
    if isinstance(hidden := opened.info.get("transparency"), int):
        grey[pixels == hidden] = BACKGROUND[0]
    return np.repeat(grey[..., None], 3, axis=-1)
