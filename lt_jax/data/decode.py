"""Decodes image files to uint8 RGB pixels or square crops.

JPEG is decoded by libjpeg-turbo (simplejpeg), which reduces the image by 2, 4 or 8 during decoding if the crop is at
least that much larger than its target size; opencv does the remaining bilinear resize by a factor below two. Other
images (CMYK, EXIF-rotated, PNG, 16 bit) are decoded by Pillow, which is slower, and reduced by area means.
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

cv2.setNumThreads(0)  # parallelism comes from the workers

Box = tuple[int, int, int, int]  # top, left, height, width
BACKGROUND = pillow.BACKGROUND
_TRIES = 10


def image(content: bytes, name: str, upright: bool = False) -> np.ndarray:
    """The whole image, uint8 (h, w, 3), with the same values as Pillow.

    Grey is repeated. Transparent images are composited on white (`BACKGROUND`). Integers of more than 8 bit are scaled
    by the largest value of their format; float pixels must lie in [0, 1]. An animation gives its first frame.

    Args:
      name: name of the file in error messages.
      upright: rotate by the EXIF tag, like `PIL.ImageOps.exif_transpose`.

    Raises:
      BadInput: the file is empty, truncated, corrupt or not an image, has too many pixels, or pixels out of range.
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
    """Crops of one image, each resized to (size, size, 3). `boxes` maps its (height, width) to the crop boxes."""
    header = _plain_header(content, upright)
    if header is None:
        return _crops_of_pixels(image(content, name, upright), boxes, size)
    crop_boxes = boxes(header)
    reduction = min(_reduction(min(height, width), size) for _, _, height, width in crop_boxes)
    with _errors(name, content):
        pixels = _decode_jpeg(content, header, reduction)
    scale = (pixels.shape[0] / header[0], pixels.shape[1] / header[1])
    return [_crop(pixels, box, scale, size) for box in crop_boxes]


def random_boxes(generator: np.random.Generator, count: int, smallest: float) -> Callable[[tuple[int, int]], list[Box]]:
    """Function that draws `count` boxes of area U(smallest, 1), aspect ratio log-uniform in 3/4..4/3.

    The distribution is that of `lt_jax.augment.simclr.crop_boxes`.
    """
    return lambda whole: [_random_box(generator, whole, smallest) for _ in range(count)]


def centre_box(whole: tuple[int, int]) -> list[Box]:
    """The central square of 224/256 of the shorter side, used in evaluation."""
    h, w = whole
    side = max(1, round(min(h, w) * 0.875))
    return [((h - side) // 2, (w - side) // 2, side, side)]


def from_pillow(opened: Any, upright: bool = False) -> np.ndarray:
    """Pixels of a PIL image, uint8 (h, w, 3), equal to `image` of its file."""
    with _errors("image", b"pixels"):
        return pillow.rgb(opened, upright)


def sized(pixels: np.ndarray, shape: tuple[int, int], centre: bool) -> np.ndarray:
    """The central part of an image with the proportions of `shape`, resized to it; unchanged if it has that shape.

    Args:
      pixels: uint8 (h, w, 3).
      centre: use `centre_box`, which needs a square `shape`; else the largest part that fits.
    """
    h, w = pixels.shape[:2]
    if centre:
        return _crops_of_pixels(pixels, centre_box, shape[0])[0]
    if (h, w) == tuple(shape):
        return pixels
    factor = min(h / shape[0], w / shape[1])
    height = max(1, round(shape[0] * factor))
    width = max(1, round(shape[1] * factor))
    top = (h - height) // 2
    left = (w - width) // 2
    kind = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR  # area means do not skip pixels when shrinking
    return cv2.resize(pixels[top : top + height, left : left + width], (shape[1], shape[0]), interpolation=kind)


def _random_box(generator: Any, whole: Any, smallest: Any) -> Any:
    h, w = whole
    for _ in range(_TRIES):
        u_area, u_ratio, u_top, u_left = generator.random(4)  # one call is faster than four
        area = h * w * (smallest + (1.0 - smallest) * u_area)
        root = math.sqrt((4 / 3) ** (2 * u_ratio - 1))  # of the aspect ratio
        width, height = round(math.sqrt(area) * root), round(math.sqrt(area) / root)
        if 0 < width <= w and 0 < height <= h:
            return int(u_top * (h - height + 1)), int(u_left * (w - width + 1)), height, width
    return 0, 0, h, w


def _reduction(length: int, size: int) -> int:
    """The largest of 1, 2, 4, 8 by which a box can be reduced without becoming smaller than `size`."""
    return next((factor for factor in (8, 4, 2) if length >= factor * size), 1)


def _crops_of_pixels(pixels: np.ndarray, boxes: Callable[..., Any], size: int) -> list[Any]:
    """Crops of a decoded image, reduced by the same factor as in the JPEG decoder, so that both look alike."""
    h, w = pixels.shape[:2]
    crop_boxes = boxes((h, w))
    reduction = min(_reduction(min(height, width), size) for _, _, height, width in crop_boxes)
    if reduction > 1:
        smaller = -(-w // reduction), -(-h // reduction)
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    scale = (pixels.shape[0] / h, pixels.shape[1] / w)
    return [_crop(pixels, box, scale, size) for box in crop_boxes]


def _crop(pixels: np.ndarray, box: tuple[Any, ...], scale: tuple[Any, ...], size: int) -> np.ndarray:
    top, left = round(box[0] * scale[0]), round(box[1] * scale[1])
    bottom, right = round((box[0] + box[2]) * scale[0]), round((box[1] + box[3]) * scale[1])
    part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)


_reused = threading.local()


def _decode_jpeg(content: bytes, whole: tuple[Any, ...], reduction: int) -> np.ndarray:
    """Decodes into a buffer that the next call overwrites, with the fast DCT and fast chroma upsampling.

    Each saves 5 % of the time and changes values by one level on average, less than the compression itself. Crops are
    resized anyway; `image` uses neither.
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
    """(height, width) of a JPEG that simplejpeg can decode; None for other files."""
    if content[:2] != b"\xff\xd8" or (upright and _may_be_turned(content)):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width) if colors in ("YCbCr", "RGB", "Gray") else None


def _may_be_turned(content: bytes) -> bool:
    """Whether a JPEG has EXIF or XMP data before its pixels; then Pillow must read the orientation."""
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
    return True  # malformed header


class _errors:
    """Context manager: turns decoder errors into BadInput with one line that names the file."""

    def __init__(self, name, content):
        self._name, self._content = name, content

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):  # decoders raise many types
            raise errors.BadInput(f"{self._name}: {self._reason(error)}") from error

    def _reason(self, error: Any) -> str:
        if isinstance(error, errors.BadInput):
            return str(error)
        if not self._content:
            return "the file is empty"
        if isinstance(error, UnidentifiedImageError):
            return _unidentified(self._content)
        message = str(error).strip() or type(error).__name__
        return pillow.is_a_limit(error) or f"corrupt or truncated ({message})"


def _unidentified(content: bytes) -> str:
    form = formats.of(content[: formats.FIRST_BYTES])
    if form is None:
        return "this is no image file"
    if not formats.is_readable(form):
        return f"{form} cannot be read, convert it to JPEG"
    return f"corrupt or truncated, or a kind of {form} that Pillow does not read"
