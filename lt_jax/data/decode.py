"""From the bytes of an image file to uint8 RGB pixels, and to square crops, reading no more than the crop needs.

JPEG goes through libjpeg-turbo (simplejpeg), which halves the image inside the decoder where the crop is at least
twice as large as what is wanted of it; the rest, a factor below two, is a bilinear resize (opencv). Everything that is
unusual (CMYK, EXIF-turned, PNG, 16 bit) takes the slow and general road through Pillow, and is halved by area means.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import UnidentifiedImageError

from lt_jax.core import errors
from lt_jax.data import formats, pillow

cv2.setNumThreads(0)  # the workers are the parallelism

Box = tuple[int, int, int, int]  # top, left, height, width
BACKGROUND = pillow.BACKGROUND
_TRIES = 10


def image(content: bytes, name: str, upright: bool = False) -> np.ndarray:
    """The whole image, uint8 (h, w, 3), with the values that Pillow gives.

    Grey is repeated. Transparent images are composited on white (`BACKGROUND`). Integers of more than 8 bit are scaled
    by the largest value of their format, float pixels must lie in [0, 1]. Of an animation it is the first frame.

    Args:
      name: what an error calls the file.
      upright: turned as its EXIF tag says, as `PIL.ImageOps.exif_transpose` does it.

    Raises:
      BadInput: empty, truncated, corrupt, or no image at all; more pixels than Pillow's limit; pixels out of range.
    """
    header = _plain_header(content, upright)
    if header is None:
        with _errors(name, content):
            return pillow.rgb_of_bytes(content, upright)
    with _errors(name, content):
        return simplejpeg.decode_jpeg(content)


def crops(
    content: bytes, name: str, boxes: Callable[[tuple[int, int]], list[Box]], size: int, upright: bool = False
) -> list[np.ndarray]:
    """Boxes of one image, each stretched to (size, size, 3). `boxes` is asked with the image's (height, width)."""
    header = _plain_header(content, upright)
    if header is None:
        return _crops_of_pixels(image(content, name, upright), boxes, size)
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
    """A PIL image as `image` gives the file that it was opened from: uint8 (h, w, 3)."""
    with _errors("image", b"pixels"):
        return pillow.rgb(opened, upright)


def sized(pixels: np.ndarray, shape: tuple[int, int], centre: bool) -> np.ndarray:
    """The middle of an image, in the proportions of `shape`, resized to it; pixels of that shape stay as they are.

    Args:
      pixels: uint8 (h, w, 3).
      centre: the part that `centre_box` leaves, else as much as there is. A `centre` shape is a square.
    """
    h, w = pixels.shape[:2]
    if centre:
        return _crops_of_pixels(pixels, centre_box, shape[0])[0]
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


def _crops_of_pixels(pixels, boxes, size):
    """Crops of a decoded image, which shrinks by the factor that a JPEG shrinks by in the decoder: both look alike."""
    h, w = pixels.shape[:2]
    wanted = boxes((h, w))
    reduction = min(_reduction(min(height, width), size) for _, _, height, width in wanted)
    if reduction > 1:
        smaller = -(-w // reduction), -(-h // reduction)
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    scale = (pixels.shape[0] / h, pixels.shape[1] / w)
    return [_crop(pixels, box, scale, size) for box in wanted]


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


def _plain_header(content: bytes, upright: bool) -> tuple[int, int] | None:
    """(height, width) of a JPEG for the fast road; None for everything else."""
    if content[:2] != b"\xff\xd8" or (upright and _may_be_turned(content)):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colors in ("YCbCr", "RGB", "Gray") else None


def _may_be_turned(content: bytes) -> bool:
    """Whether EXIF or XMP data stand before the pixels of a JPEG, at whatever depth. Pillow finds out what they say."""
    at, end = 2, len(content) - 4
    while at < end and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:  # the pixels begin
            return False
        if marker == 0xE1:
            body = content[at + 4 : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
            if body.startswith(b"Exif\0") or b"tiff:Orientation" in body:
                return True
        at += 2 if marker == 1 or 0xD0 <= marker <= 0xD8 else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return True  # not as a header should be


class _errors:
    """Turns what a decoder says into one line that names the file."""

    def __init__(self, name, content):
        self._name, self._content = name, content

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):  # a decoder raises what it likes
            raise errors.BadInput(f"{self._name}: {self._reason(error)}") from error

    def _reason(self, error):
        if isinstance(error, errors.BadInput):
            return str(error)
        if not self._content:
            return "the file is empty"
        if isinstance(error, UnidentifiedImageError):
            return _unidentified(self._content)
        message = str(error).strip() or type(error).__name__
        return pillow.is_a_limit(error) or f"corrupt or truncated ({message})"


def _unidentified(content):
    form = formats.of(content[: formats.FIRST_BYTES])
    if form is None:
        return "this is no image file"
    if not formats.is_readable(form):
        return f"{form} cannot be read, convert it to JPEG"
    return f"corrupt or truncated, or a kind of {form} that Pillow does not read"
