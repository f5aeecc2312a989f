"""A picture file's bytes -> uint8 (channels, size, size), or the reason why not.

What a file is, is judged by its first bytes, never by its name. Of an animation the first frame counts, of a
multi-picture JPEG the first picture. An embedded colour profile (ICC) is ignored: numbers are taken as sRGB.
Resizing is plain Lanczos on the stored numbers, not in linear light. Pillow releases the interpreter's lock
while it decompresses, converts and resizes, so a pool of threads decodes in parallel.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

Fit = Literal["crop", "fit", "stretch"]
Box = tuple[float, float, float, float]

MAX_PIXELS = 89_478_485  # Pillow's own limit
MAX_SIDE = 1_000_000  # a picture of 1 x 89 million takes a pointer a row: ten times its pixels
MAX_SCANS = 500  # of a progressive JPEG: each costs a pass over all its blocks, and only a few bytes
OVERSAMPLING = 2  # JPEGs are decoded at least this many times as large as needed
REDUCING_GAP = 3.0  # large pictures are averaged down to this many times the size before Lanczos
# What Pillow's readers raise on damaged files, where only they are called (see `_pillow`). A TypeError or an
# AttributeError is a mistake of ours, and no memory left is the machine's: neither is a picture's fault.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    AssertionError,  # of an indexed PNG without its colours
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
OTHER_KINDS = {
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF document",
    b"II*\x00": "a TIFF picture",
    b"MM\x00*": "a TIFF picture",
    b"\x00\x00\x01\x00": "an ICO icon",
    b"\x1f\x8b": "a gzip archive",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"<!DO": "an HTML page",
    b"<htm": "an HTML page",
    b"version https://git-lfs": "a Git LFS pointer, not the picture itself",
}
# Pillow warns of metadata that it cannot read, in the midst of a progress bar; the pixels are what counts.
# Filters of all threads, for catch_warnings is not safe in a thread.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+ImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # named by us, with the size
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Original:
    """What a picture was before it was cut and resized."""

    width: int
    height: int
    colored: bool  # false for a file that can hold grey only


class Damaged(Exception):
    """What Pillow says of a file that it cannot read, in words."""


@contextmanager
def _pillow() -> Iterator[None]:
    """Around calls of Pillow alone, so that a mistake of ours is never taken for a damaged picture."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Damaged(f"too many pixels; at most {MAX_PIXELS // 10**6} million") from error
    except DAMAGE as error:
        words = " ".join(str(error).split()) or type(error).__name__
        words = words.replace("not identified by this driver", "no picture, or one without pixels")
        raise Damaged(f"damaged: {words}") from error


def decode(
    data: bytes,
    size: int,
    channels: int,
    fit: Fit = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray | str:
    """A PNG, JPEG, WebP, BMP or GIF file -> uint8 (channels, size, size), contiguous; or why not, in words.

    crop: the central square. fit: the whole picture, with borders of the background. stretch: the whole
    picture, its sides scaled apart. What is transparent shows the background.
    """
    decoded = decode_known(data, size, channels, fit, background)
    return decoded if isinstance(decoded, str) else decoded[0]


def decode_known(
    data: bytes, size: int, channels: int, fit: Fit, background: tuple[int, int, int]
) -> tuple[np.ndarray, Original] | str:
    """As `decode`, with what the picture was."""
    try:
        image = _open(data)
        if isinstance(image, str):
            return image
        width, height = image.size
        if too_large := _too_large(width, height):
            return too_large
        original = Original(width, height, not image.mode.startswith(("1", "L", "I", "F")))
        extent = _draft(image, size, channels, fit) if isinstance(image, JpegImageFile) else image.size
        with _pillow():
            image.load()
        if isinstance(image, PngImageFile):
            _mend_transparency(image, depth=data[24])
        plain = _plain(image)
    except Damaged as damaged:
        return str(damaged)
    return _arrange(plain, extent, _orientation(image), size, channels, fit, background), original


def frame(
    image: Image.Image, size: int, channels: int, fit: Fit, background: tuple[int, int, int]
) -> np.ndarray:
    """A Pillow picture -> uint8 (channels, size, size), as `decode` does with a file's.

    Mode I counts as 0 .. 65535, as the readers of 16-bit files give it, and F as 0 .. 255. Raises what Pillow
    raises if the picture is not loaded yet and cannot be.
    """
    image.load()
    return _arrange(_plain(image), image.size, _orientation(image), size, channels, fit, background)


def _open(data: bytes) -> ImageFile.ImageFile | str:
    """Its header read and no pixel yet.

    By the readers themselves, not `Image.open`, which warns of large pictures before we could name their size
    and reads every picture of a multi-picture JPEG.
    """
    if data.startswith(b"\xff\xd8\xff"):
        if data.count(b"\xff\xda") > MAX_SCANS:
            return f"a JPEG of more than {MAX_SCANS} scans"
        return _by(JpegImageFile, data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        damaged = _damaged_chunk(data)
        if damaged:
            return f"damaged: the checksum of its {damaged} chunk is wrong"
        return _by(PngImageFile, data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _by(WebPImageFile, data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        if len(data) < 10:
            return "damaged: cut off in its header"
        return _too_large(*struct.unpack_from("<HH", data, 6)) or _by(GifImageFile, data)
    if data.startswith(b"BM"):
        return _by(BmpImageFile, data)
    if not data:
        return "an empty file"
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next((words for magic, words in OTHER_KINDS.items() if head.startswith(magic)), "")
    if not kind and not data[:256].strip(b"\0"):
        kind = "a file of zeros"
    return f"{kind or 'its content'} is no PNG, JPEG, WebP, BMP or GIF picture"


def _too_large(width: int, height: int) -> str:
    """Why a picture of so many pixels is not read; "" if it is."""
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} million"
    return f"{width} x {height} pixels; at most 1 million a side" if max(width, height) > MAX_SIDE else ""


def _by(reader: Callable[[io.BytesIO], ImageFile.ImageFile], data: bytes) -> ImageFile.ImageFile:
    with _pillow():
        return reader(io.BytesIO(data))


def _damaged_chunk(data: bytes) -> str:
    """The first chunk with pixels or their meaning whose checksum is wrong; Pillow skips those of pixels."""
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data) or kind == b"IEND":
            break
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return ascii(kind)[2:-1]
        start = end + 4
    return ""


def _draft(image: JpegImageFile, size: int, channels: int, fit: Fit) -> tuple[float, float]:
    """Let the JPEG be decoded at 1/2, 1/4 or 1/8 where that is enough, and only its brightness for grey.

    Orientation does not matter: what is asked of the sides is symmetric. Returns the (width, height) that the
    picture then has, as fractions of a pixel: `image.size` is rounded up.
    """
    needed = OVERSAMPLING * size
    width, height = image.size
    # Pillow takes the smaller of the two ratios; for "fit" only the longer side counts.
    smallest = (needed, needed) if fit != "fit" else (needed, 1) if width >= height else (1, needed)
    with _pillow():
        drafted = image.draft("L" if channels == 1 else "RGB", smallest)
    return (width, height) if drafted is None else (drafted[1][2], drafted[1][3])


def _mend_transparency(image: PngImageFile, depth: int) -> None:
    """Bring a PNG's transparent colour, which is in units of its bit depth, to those of the pixels read."""
    transparency = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparency, int) and depth < 8:
        image.info["transparency"] = transparency * (255 // (2**depth - 1))
    elif image.mode == "RGB" and isinstance(transparency, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparency)


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in mode L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    with _pillow():
        if image.has_transparency_data:
            return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if image.mode in ("L", "RGB"):
            return image
        return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The high byte, as for 16-bit colour; Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.nan_to_num(values).round().clip(0, 255).astype(np.uint8))
    grey = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    transparency = image.info.get("transparency")
    if transparency is not None:
        alpha = Image.fromarray(np.where(values == transparency, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha)).convert("RGBA")
    return grey


def _orientation(image: Image.Image) -> int:
    """1 .. 8 as EXIF counts them; 1 where it says nothing or cannot be read, for the picture is good."""
    if image.info.keys().isdisjoint(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")):
        return 1
    try:
        with _pillow():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Damaged:
        return 1
    return orientation if orientation in UPRIGHT else 1


def _arrange(
    image: Image.Image,
    extent: tuple[float, float],
    orientation: int,
    size: int,
    channels: int,
    fit: Fit,
    background: tuple[int, int, int],
) -> np.ndarray:
    """Cut and resize, then turn and lay on the background: those two then work on few pixels."""
    width, height = extent
    box: Box = (0, 0, width, height)
    target = (size, size)
    if fit == "crop":
        box = _central_square(width, height, scale=image.width / width)
    elif fit == "fit":
        ratio = size / max(width, height)
        target = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    image = image.resize(target, Image.Resampling.LANCZOS, box, REDUCING_GAP)
    if orientation != 1:
        image = image.transpose(UPRIGHT[orientation])
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    mode = "L" if channels == 1 else "RGB"
    image = image.convert(mode)
    if image.size != (size, size):
        canvas = Image.new("RGB", (size, size), background).convert(mode)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        image = canvas
    array = np.asarray(image, np.uint8)
    return array[None].copy() if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _central_square(width: float, height: float, scale: float) -> Box:
    """On whole pixels where the picture was read at its own size, so that cutting alone changes no pixel."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if scale == 1:
        left, top = left // 1, top // 1
    return (left, top, left + side, top + side)
