"""From the bytes of an image file to uint8 RGB pixels, and to square crops, reading no more than the crop needs.

JPEG goes through libjpeg-turbo (simplejpeg), which halves the image inside the decoder where the crop is at least
twice as large as what is wanted of it; the rest, a factor below two, is a bilinear resize (opencv). Everything that is
unusual (CMYK, EXIF-turned, PNG, 16 bit) takes the slow and general road through Pillow.
"""

import io
import math
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from lt_jax import errors

cv2.setNumThreads(0)  # the workers are the parallelism

Box = tuple[int, int, int, int]  # top, left, height, width
_ORIENTATION = 0x0112
_TRIES = 10


def image(content: bytes, name: str, upright: bool = False) -> np.ndarray:
    """The whole image, uint8 (h, w, 3). Grey is repeated, alpha is dropped, 16 bit is scaled to 8.

    Args:
      name: what an error calls the file.
      upright: turned as its EXIF tag says.

    Raises:
      BadInput: empty, truncated, corrupt, or no image at all.
    """
    header = _plain_header(content, upright)
    if header is None:
        with _errors(name, content):
            return _by_pillow(Image.open(io.BytesIO(content)), upright)
    with _errors(name, content):
        return simplejpeg.decode_jpeg(content)


def crops(
    content: bytes, name: str, boxes: Callable[[tuple[int, int]], list[Box]], size: int, upright: bool = False
) -> list[np.ndarray]:
    """Boxes of one image, each stretched to (size, size, 3). `boxes` is asked with the image's (height, width)."""
    header = _plain_header(content, upright)
    if header is None:
        pixels = image(content, name, upright)
        return [_crop(pixels, box, (1.0, 1.0), size) for box in boxes(pixels.shape[:2])]
    wanted = boxes(header)
    reduction = min(_reduction(min(height, width), size) for _, _, height, width in wanted)
    with _errors(name, content):
        pixels = _decode_jpeg(content, header, reduction)
    scale = (pixels.shape[0] / header[0], pixels.shape[1] / header[1])
    return [_crop(pixels, box, scale, size) for box in wanted]


def random_boxes(generator: np.random.Generator, count: int, smallest: float) -> Callable[[tuple[int, int]], list[Box]]:
    """`count` boxes of area U(smallest, 1) and aspect ratio log-uniform in 3/4..4/3, as `augment.crop_boxes` draws."""
    return lambda whole: [_random_box(generator, whole, smallest) for _ in range(count)]


def centre_box(whole: tuple[int, int]) -> list[Box]:
    """The middle 224/256 of the shorter side: what evaluation looks at."""
    h, w = whole
    side = max(1, round(min(h, w) * 0.875))
    return [((h - side) // 2, (w - side) // 2, side, side)]


def from_pillow(opened: Any, upright: bool = False) -> np.ndarray:
    """A PIL image as `image` gives a file: uint8 (h, w, 3)."""
    with _errors("image", b"pixels"):
        return _by_pillow(opened, upright)


def sized(pixels: np.ndarray, shape: tuple[int, int], centre: bool) -> np.ndarray:
    """The middle of an image, in the proportions of `shape`, resized to it; pixels of that shape stay as they are.

    Args:
      pixels: uint8 (h, w, 3).
      centre: the part that `centre_box` leaves, else as much as there is. A `centre` shape is a square.
    """
    h, w = pixels.shape[:2]
    if centre:
        return _crop(pixels, centre_box((h, w))[0], (1.0, 1.0), shape[0])
    if (h, w) == tuple(shape):
        return pixels
    factor = min(h / shape[0], w / shape[1])
    height, width = max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
    top, left = (h - height) // 2, (w - width) // 2
    kind = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR  # the area mean: nothing is skipped where it shrinks
    return cv2.resize(pixels[top : top + height, left : left + width], (shape[1], shape[0]), interpolation=kind)


def _random_box(generator, whole, smallest):
    h, w = whole
    for _ in range(_TRIES):
        u_area, u_ratio, u_top, u_left = generator.random(4)  # one call: four take as long as a hundredth of decoding
        area = h * w * (smallest + (1.0 - smallest) * u_area)
        root = math.sqrt((4 / 3) ** (2 * u_ratio - 1))  # of the aspect ratio
        width, height = round(math.sqrt(area) * root), round(math.sqrt(area) / root)
        if 0 < width <= w and 0 < height <= h:
            return int(u_top * (h - height + 1)), int(u_left * (w - width + 1)), height, width
    return 0, 0, h, w


def _reduction(length: int, size: int) -> int:
    """The largest of 1, 2, 4, 8 by which a box may shrink and still be no smaller than what is wanted."""
    return next((factor for factor in (8, 4, 2) if length >= factor * size), 1)


def _crop(pixels, box, scale, size):
    top, left = round(box[0] * scale[0]), round(box[1] * scale[1])
    bottom, right = round((box[0] + box[2]) * scale[0]), round((box[1] + box[3]) * scale[1])
    part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)


_reused = threading.local()


def _decode_jpeg(content, whole, reduction):
    """Decodes into memory that the next call overwrites, by the fast transform and the fast upsampling of colours.

    A crop is resized anyway. Each of the two takes 5 % off the time and moves a value by one level on average, less
    than the compression itself does; `image` takes neither.
    """
    h, w = whole
    needed = h * w * 3
    if getattr(_reused, "buffer", None) is None or _reused.buffer.nbytes < needed:
        _reused.buffer = np.empty(needed, np.uint8)
    least = {"min_height": h // reduction, "min_width": w // reduction} if reduction > 1 else {}
    return simplejpeg.decode_jpeg(
        content, min_factor=min(reduction, 2), fastupsample=True, fastdct=True, buffer=_reused.buffer, **least
    )


def _by_pillow(opened: Any, upright: bool) -> np.ndarray:
    opened.load()
    if upright:
        opened = ImageOps.exif_transpose(opened)
    if opened.mode.startswith("I") or opened.mode == "F":
        return _from_deep(np.asarray(opened))
    if opened.mode == "P":
        opened = opened.convert("RGBA")
    return np.array(opened.convert("RGB"))


def _from_deep(pixels: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bit; Pillow's own conversion clips it at 255 instead of scaling."""
    top = 65535.0 if pixels.dtype.kind in "iu" else max(1.0, float(pixels.max(initial=1.0)))
    grey = (np.clip(pixels / top, 0.0, 1.0) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _plain_header(content: bytes, upright: bool) -> tuple[int, int] | None:
    """(height, width) of a JPEG for the fast road; None for everything else."""
    if content[:2] != b"\xff\xd8" or (upright and b"Exif\x00" in content[:4096]):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colors in ("YCbCr", "RGB", "Gray") else None


class _errors:
    """Turns what a decoder says into one line that names the file."""

    def __init__(self, name, content):
        self._name, self._content = name, content

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, (ValueError, OSError, SyntaxError, Image.DecompressionBombError)):
            return
        if not self._content:
            reason = "the file is empty"
        elif isinstance(error, UnidentifiedImageError):
            reason = "this is no image file"
        else:
            reason = f"corrupt or truncated ({str(error).strip() or type(error).__name__})"
        raise errors.BadInput(f"{self._name}: {reason}") from error
