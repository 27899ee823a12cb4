"""Decoded pixels equal those of Pillow and `ImageOps.exif_transpose`: transparency, bit depths, EXIF, limits."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from lt_jax.core import errors
from lt_jax.data import decode
from lt_jax.serve import classifier

PIXELS = (np.linspace(0, 255, 40 * 60).reshape(40, 60, 1) * [1.0, 0.5, 0.2]).astype(np.uint8)
WHITE = 255


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


def both(content, upright=False):
    """Returns the decoded pixels, after a check that the image opened with Pillow gives the same."""
    pixels = decode.image(content, "x", upright)
    np.testing.assert_array_equal(decode.from_pillow(opened(content), upright), pixels)
    return pixels


def refused(content):
    """Returns the error message, after a check that the image opened with Pillow is refused for the same reason."""
    with pytest.raises(errors.BadInput) as first:
        decode.image(content, "dir/x.tif")
    with pytest.raises(errors.BadInput) as second:
        decode.from_pillow(opened(content))
    assert str(first.value).startswith("dir/x.tif: ")
    assert str(first.value).removeprefix("dir/x.tif: ") == str(second.value).removeprefix("image: ")
    return str(first.value)


def rgba(red, alpha):
    return Image.fromarray(np.array([[[red, 0, 0, alpha]]], np.uint8), "RGBA")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_on_white(form):
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    assert both(encoded(rgba(200, 0), form, **options)).tolist() == [[[255, 255, 255]]]
    assert both(encoded(rgba(200, 255), form, **options)).tolist() == [[[200, 0, 0]]]
    assert both(encoded(rgba(255, 128), form, **options)).tolist() == [[[255, 127, 127]]]


def test_background_is_white_and_documented():
    assert decode.BACKGROUND == (255, 255, 255)
    assert "white" in decode.image.__doc__


def test_grey_with_transparency():
    image = Image.fromarray(np.array([[[10, 0], [10, 255], [0, 128]]], np.uint8), "LA")
    assert both(encoded(image))[0, :, 0].tolist() == [255, 10, 127]
    keyed = Image.fromarray(np.array([[10, 20]], np.uint8))
    assert both(encoded(keyed, transparency=10))[0, :, 1].tolist() == [255, 20]
    one_bit = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert both(encoded(one_bit))[0, :, 2].tolist() == [0, 255]


def test_colour_key_of_rgb():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert both(encoded(image, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency(form):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 250, 100, 50])
    image.putpixel((1, 0), 1)
    assert both(encoded(image, form, transparency=0)).tolist() == [[[255, 255, 255], [250, 100, 50]]]
    assert both(encoded(image, form)).tolist() == [[[9, 8, 7], [250, 100, 50]]]
    if form == "PNG":  # one alpha value per colour
        assert both(encoded(image, transparency=bytes([128, 0]))).tolist() == [[[132, 131, 131], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa", "RGBA"])
def test_pil_images_with_transparency(mode):
    clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    for step in {"PA": ("P", "PA"), "La": ("LA", "La")}.get(mode, (mode,)):
        clear = clear.convert(step)
    if mode == "PA":
        clear.putalpha(0)
    assert clear.mode == mode
    assert decode.from_pillow(clear).tolist() == [[[255, 255, 255]]]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for form in ("GIF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert both(content)[0, 0].tolist() == [255, 0, 0]


def grey16(values, **options):
    return encoded(Image.fromarray(np.array([values], np.uint16)), **options)


def test_16_bit_png_is_scaled_by_65535():
    assert both(grey16([0, 257, 25700, 30000])).tolist() == [[[v] * 3 for v in (0, 1, 100, 117)]]
    assert both(grey16([0, 100])).max() == 0  # not scaled by its maximum
    old = Image.fromarray(np.array([[0, 25700, 65535]], np.int32))  # Pillow before 11 opens such a file as mode I
    assert old.mode == "I" and decode.from_pillow(old)[0, :, 0].tolist() == [0, 100, 255]


def png(depth, kind, rows, *chunks):
    """Returns a PNG file of raw rows, with more chunks before the pixels."""
    head = struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_grey_with_a_transparent_value():
    content = png(16, 0, struct.pack(">HH", 1000, 25700), (b"tRNS", struct.pack(">H", 1000)))
    assert both(content)[0, :, 0].tolist() == [255, 100]


def test_16_bit_colour_equals_pillow():
    content = png(16, 2, struct.pack(">6H", 0, 257, 25700, 65535, 30000, 1))
    np.testing.assert_array_equal(both(content), np.asarray(opened(content).convert("RGB")))


def tiff(values, bits, sample_format, order="<"):
    """Returns an uncompressed grey TIFF file of one row."""
    code = {(8, 1): "B", (16, 1): "H", (16, 2): "h", (32, 1): "I", (32, 2): "i", (32, 3): "f"}[bits, sample_format]
    data = struct.pack(f"{order}{len(values)}{code}", *values)
    tags = [(256, 3, len(values)), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 3, 1), (279, 4, len(data)), (339, 3, sample_format)]  # fmt: skip
    data += b"\0" * (len(data) % 2)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, 1)
        + struct.pack(order + ("HH" if kind == 3 else "I"), *([v, 0][: 5 - kind]))
        for tag, kind, v in tags
    )
    return (
        mark
        + struct.pack(order + "I", 8 + len(data))
        + data
        + struct.pack(order + "H", len(tags))
        + entries
        + b"\0" * 4
    )


@pytest.mark.parametrize("order", "<>")
def test_16_bit_tiff(order):
    assert both(tiff([0, 25700, 51400], 16, 1, order))[0, :, 0].tolist() == [0, 100, 200]
    assert both(tiff([0, 100 * 32767 // 255], 16, 2, order))[0, :, 0].tolist() == [0, 100]
    line = refused(tiff([-5, 7], 16, 2, order))
    assert "16-bit pixels must lie in 0..32767, found -5..7" in line


def test_32_bit_tiff_is_scaled_by_the_range_of_its_type():
    unit = 2**32 - 1
    assert both(tiff([0, unit // 255 * 100, unit // 255 * 200, unit], 32, 1))[0, :, 0].tolist() == [0, 100, 200, 255]
    assert both(tiff([0, 65535], 32, 1)).max() == 0
    unit = 2**31 - 1
    assert both(tiff([0, unit // 255 * 100, unit], 32, 2))[0, :, 0].tolist() == [0, 100, 255]
    assert "32-bit pixels must lie in 0..2147483647, found -1..3" in refused(tiff([-1, 3], 32, 2))


def test_12_bit_tiff_is_scaled_by_4095():
    content = tiff([0x0600, 0x0046], 16, 1)  # the bytes 00 06 46: two pixels of 12 bits, 0x000 and 0x646
    bits = [struct.pack("<HHIHH", 258, 3, 1, count, 0) for count in (16, 12)]
    content = content.replace(*bits)
    assert both(content)[0, :, 0].tolist() == [0, 100]


def test_portable_grey_maps():
    assert both(b"P5 2 1 65535\n" + struct.pack(">HH", 0, 25700))[0, :, 0].tolist() == [0, 100]
    assert both(b"P5 2 1 1023\n" + struct.pack(">HH", 1023, 402))[0, :, 0].tolist() == [255, 100]


def test_float_tiff_must_be_in_0_to_1():
    assert both(tiff([0.0, 0.2, 1.0], 32, 3))[0, :, 0].tolist() == [0, 51, 255]
    assert both(tiff([0.0, 0.2, 0.4], 32, 3))[0, :, 0].tolist() == [0, 51, 102]  # not scaled by its maximum
    assert "float pixels must lie in [0, 1], found 0..200" in refused(tiff([0.0, 200.0], 32, 3))
    assert "float pixels must lie in [0, 1], found -0.5..1" in refused(tiff([-0.5, 1.0], 32, 3))
    assert "float pixels must lie in [0, 1], found" in refused(tiff([0.5, float("nan")], 32, 3))


def test_integers_outside_16_bits_are_refused():
    image = Image.fromarray(np.array([[0, 70000]], np.int32))
    with pytest.raises(errors.BadInput, match=r"image: .*pixels must lie in 0\.\.65535, found 0\.\.70000"):
        decode.from_pillow(image)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_segments(jpeg, *segments):
    """Returns the JPEG file with (marker, content) segments inserted after its start marker."""
    parts = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return jpeg[:2] + parts + jpeg[2:]


LONG = {
    "XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b" " * 20000),
    "ICC": (0xE2, b"ICC_PROFILE\0\1\1" + b"\0" * 60000),
    "Photoshop": (0xED, b"Photoshop 3.0\0" + b"8BIM" * 4000),
}
TURNED_BY_XMP = (
    0xE1,
    b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation='6' /></x:xmpmeta>".replace(b"'", b'"'),
)


@pytest.mark.parametrize("before", [[], *([name] for name in LONG), list(LONG)], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_orientation_is_read_after_other_segments(before, orientation):
    jpeg = encoded(Image.fromarray(PIXELS), "JPEG", quality=95)
    content = with_segments(
        jpeg, *(LONG[name] for name in before), (0xE1, b"Exif\0\0" + exif_of(orientation).tobytes()[6:])
    )
    expected = np.asarray(ImageOps.exif_transpose(opened(content)))
    assert not np.array_equal(expected, np.asarray(opened(content)))
    np.testing.assert_array_equal(both(content, upright=True), expected)
    np.testing.assert_array_equal(both(content), np.asarray(opened(content)))


def test_orientation_only_in_xmp():
    content = with_segments(encoded(Image.fromarray(PIXELS), "JPEG"), LONG["ICC"], TURNED_BY_XMP)
    np.testing.assert_array_equal(both(content, upright=True), np.asarray(ImageOps.exif_transpose(opened(content))))


def test_padding_between_segments():
    content = encoded(Image.fromarray(PIXELS), "JPEG", exif=exif_of(6))
    padded = content[:2] + b"\xff\xff\xff" + content[2:]
    assert both(padded, upright=True).shape == (60, 40, 3)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_orientation_of_other_formats(form):
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(Image.fromarray(PIXELS), form, exif=exif_of(6), **options)
    np.testing.assert_array_equal(both(content, upright=True), np.rot90(PIXELS, -1))
    np.testing.assert_array_equal(both(content), np.asarray(opened(content)))  # Pillow itself turns a TIFF


def test_unreadable_exif_is_ignored():
    jpeg = encoded(Image.fromarray(PIXELS), "JPEG")
    content = with_segments(jpeg, (0xE1, b"Exif\0\0this is no TIFF header"))
    np.testing.assert_array_equal(both(content, upright=True), np.asarray(opened(jpeg)))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize(("view", "side"), [("centre", 24), ("whole", 16)])
def test_a_path_and_a_pil_image_give_the_same_pixels(form, view, side, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((450, 300), Image.Resampling.BICUBIC)
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(image, form, exif=exif_of(6), **options)
    (tmp_path / "x.img").write_bytes(with_segments(content, LONG["ICC"]) if form == "JPEG" else content)
    model = classifier.Classifier(("a",), (side, side, 3), view, True, None, None, 1)
    by_path, by_pillow = (model.pixels([x])[0] for x in (tmp_path / "x.img", Image.open(tmp_path / "x.img")))
    np.testing.assert_array_equal(by_path, by_pillow)


def test_a_large_jpeg_and_a_pil_image_give_nearly_the_same_pixels(tmp_path):
    """The decoder shrinks a path, the mean over areas shrinks a PIL image; neither skips pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    image = Image.fromarray(noise).resize((1200, 800), Image.Resampling.NEAREST)
    image.save(tmp_path / "x.jpg", quality=95)
    model = classifier.Classifier(("a",), (64, 64, 3), "centre", True, None, None, 1)
    by_path, by_pillow = (model.pixels([x])[0] for x in (tmp_path / "x.jpg", Image.open(tmp_path / "x.jpg")))
    assert np.abs(by_path.astype(int) - by_pillow).mean() < 3
    assert by_path.std() < 40  # the noise itself has a standard deviation of 74


def huge(width, height):
    """Returns a small PNG file whose header declares width x height pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * -(-width // 8)) * height) if width * height < 2e8 else zlib.compress(b"\0")
    parts = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def test_too_many_pixels_are_refused_with_the_limit():
    limit = 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(errors.BadInput) as raised:
        decode.image(huge(30000, 30000), "dir/big.png")
    message = f"dir/big.png: 30000 x 30000 pixels are more than the limit of {limit}; make it smaller"
    assert str(raised.value).startswith(message)


def test_a_large_png_below_the_limit_is_read_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow warns above this and refuses twice this
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode.image(encoded(Image.fromarray(PIXELS)), "x"), PIXELS)
    assert Image.MAX_IMAGE_PIXELS == 2000
    with pytest.raises(errors.BadInput, match="60 x 80 pixels are more than the limit of 4000; make it smaller"):
        decode.image(encoded(Image.new("RGB", (60, 80))), "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # no limit
    assert decode.image(encoded(Image.new("RGB", (60, 80))), "x").shape == (80, 60, 3)


def test_a_lack_of_memory_is_reported(monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(errors.BadInput, match="x: too large for the memory of this machine; make it smaller"):
        decode.image(encoded(Image.fromarray(PIXELS)), "x")


def with_text(size, after=False):
    text = PngImagePlugin.PngInfo()
    text.add_text("notes", "x" * size, zip=True)
    if after:
        text.chunks = [(name, data, True) for name, data, *_ in text.chunks]
    return encoded(Image.fromarray(PIXELS), pnginfo=text)


@pytest.mark.parametrize("after", [False, True])
def test_long_text_in_a_png_is_accepted(after):
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    np.testing.assert_array_equal(decode.image(with_text(2 << 20, after), "x"), PIXELS)
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_too_much_text_in_a_png_is_refused_with_the_limit():
    with pytest.raises(errors.BadInput, match=r"^dir/x\.png: .*text.* more than the limit of 64 MiB"):
        decode.image(with_text(70 << 20), "dir/x.png")


def test_the_error_names_an_unsupported_format():
    with pytest.raises(errors.BadInput, match="x: HEIC cannot be read, convert it to JPEG"):
        decode.image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "x")
    with pytest.raises(errors.BadInput, match="x: .*a kind of TIFF that Pillow does not read"):
        decode.image(tiff([1, 2], 32, 1, ">"), "x")


def test_common_modes_equal_pillow():
    image = Image.fromarray(PIXELS)
    for content in (
        encoded(image.convert("CMYK"), "JPEG"), encoded(image.quantize(64)), encoded(image.convert("L")),
        encoded(image.convert("1")), encoded(image, "BMP"), encoded(image, "JPEG", subsampling=2),
        encoded(image.convert("L"), "JPEG"), encoded(image, "PPM"), encoded(image.convert("LAB"), "TIFF"),
    ):  # fmt: skip
        np.testing.assert_array_equal(both(content), np.asarray(opened(content).convert("RGB")))
