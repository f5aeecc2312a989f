"""Pictures of every format and mode become the pixels that they show, and damaged ones a reason."""

from __future__ import annotations

import importlib
import io
import struct
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nasty import GREY_8, RGB_16, chunk, damaged, encoded, photo, png, unusual, with_exif
from PIL import Image, ImageOps

from gentrain.data.reading import decode as decode_module
from gentrain.data.reading.decode import UPRIGHT, Fit, decode, frame

WHITE = (255, 255, 255)
RED = (255, 0, 0)
FILES, BAD_FILES = unusual(), damaged()


def pixels(data: bytes, size: int = 24, channels: int = 3, fit: Fit = "crop", **options) -> np.ndarray:  # type: ignore[no-untyped-def]
    result = decode(data, size, channels, fit, **options)
    assert isinstance(result, np.ndarray), result
    assert result.shape == (channels, size, size)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    return result


def near(one: np.ndarray, other: np.ndarray, levels: float) -> bool:
    return bool(np.abs(one.astype(float) - other).mean() < levels)


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


# ---- what a file shows


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_unusual_files_are_read(name: str, channels: int) -> None:
    before = time.perf_counter()
    pixels(FILES[name], 16, channels)
    assert time.perf_counter() - before < 1


def test_what_is_already_as_wanted_is_not_touched() -> None:
    assert np.array_equal(pixels(encoded(photo(), "PNG")), planes(photo()))
    assert np.array_equal(pixels(encoded(photo(31, 24), "PNG")), planes(photo(31, 24))[:, :, 3:27])
    assert np.array_equal(pixels(encoded(photo(), "BMP"), channels=1)[0], np.asarray(photo().convert("L")))


def test_sixteen_bits() -> None:
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(pixels(encoded(Image.fromarray(grey), "PNG"), 256, 1)[0], grey >> 8)
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in grey)
    assert np.array_equal(pixels(png(256, 256, rows, RGB_16), 256)[1], grey >> 8)
    black_is_nothing = encoded(Image.fromarray(grey), "PNG", transparency=0)
    assert pixels(black_is_nothing, 256, 1)[0, 0, :2].tolist() == [255, 0]
    as_int = Image.fromarray(grey.astype(np.int32))
    assert np.array_equal(frame(as_int, 256, 1, "crop", WHITE)[0], grey >> 8)
    as_float = Image.fromarray((grey >> 8).astype(np.float32))
    assert np.array_equal(frame(as_float, 256, 1, "crop", WHITE)[0], grey >> 8)


def test_the_transparent_colour_is_in_units_of_the_bit_depth() -> None:
    rows = b"".join(b"\0" + bytes([0b00011011]) for _ in range(4))  # 0 1 2 3
    data = png(4, 4, rows, (2, 0), before_pixels=chunk(b"tRNS", struct.pack(">H", 2)))
    assert pixels(data, 4, 1)[0, 0].tolist() == [0, 85, 255, 255]
    assert pixels(data, 4, background=RED)[:, 0].T.tolist() == [[0] * 3, [85] * 3, [255, 0, 0], [255] * 3]
    rows = b"".join(b"\0" + struct.pack(">6H", 0x1234, 0, 0, 0xFF00, 0, 0) for _ in range(2))
    data = png(2, 2, rows, RGB_16, before_pixels=chunk(b"tRNS", struct.pack(">3H", 0x1234, 0, 0)))
    assert pixels(data, 2)[:, 0].T.tolist() == [[255, 255, 255], [255, 0, 0]]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(encoded(palette, "PNG", transparency=1), 8) == 255).all()
    assert pixels(encoded(palette, "PNG"), 8)[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels(encoded(palette, "PNG", transparency=b"\xff\x80"), 8)[:, 0, 0].tolist() == pytest.approx(
        [132, 137, 142], abs=1
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_alpha_is_laid_on_the_background(mode: str) -> None:
    half = Image.new("LA" if mode in ("LA", "La") else "RGBA", (30, 30), 0)
    half.putalpha(Image.new("L", (30, 30), 128))
    image = half.convert(mode) if mode != "PA" else half.convert("P").convert("PA")
    if mode == "PA":
        image.putalpha(128)
    for size in (30, 10):
        array = frame(image, size, 3, "crop", (200, 100, 0))
        assert np.abs(array[:, 5, 5].astype(int) - [100, 50, 0]).max() <= 1


def test_colours_hidden_under_transparency_do_not_bleed() -> None:
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    small = pixels(encoded(image, "PNG"), 8, background=RED)
    assert (small[1:] <= 1).all()


@pytest.mark.parametrize("kind", ["CMYK", "L", "RGB"])
def test_jpegs_of_every_colour_space(kind: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 40, 90)).convert(kind)
    assert near(pixels(encoded(image, "JPEG", quality=95), 32), planes(image), 4)


def test_ycck() -> None:
    """CMYK's first three inks coded as colour differences: those of Adobe, inverted, like all of them."""
    inks = np.asarray(Image.new("RGB", (32, 32), (200, 40, 90)).convert("CMYK"))
    # libjpeg codes 255 minus what is stored, as if it were RGB; Adobe stores 255 minus the ink.
    ycc = np.asarray(Image.fromarray(inks[..., :3].copy()).convert("YCbCr"))
    coded = Image.fromarray(255 - np.dstack([ycc, 255 - inks[..., 3]]), "CMYK")  # Pillow inverts all
    data = encoded(coded, "JPEG", quality=95, subsampling=0)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data = data[:at] + b"\x02" + data[at + 1 :]  # the transform: YCCK
    assert near(pixels(data, 32), planes(Image.new("RGB", (32, 32), (200, 40, 90))), 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fit", ["crop", "fit", "stretch"])
def test_orientation(kind: str, fit: Fit) -> None:
    upright = photo(48, 40)
    back = {5: 5, 6: 8, 7: 7, 8: 6}
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98}, "PNG": {}}[kind]
    reference = pixels(encoded(upright, kind, **options), 16, fit=fit)
    for orientation in range(1, 9):
        stored = upright
        if orientation != 1:
            stored = upright.transpose(UPRIGHT[back.get(orientation, orientation)])
        data = encoded(stored, kind, exif=with_exif(orientation), **options)
        assert near(pixels(data, 16, fit=fit), reference, 3 if kind == "JPEG" else 0.5), orientation


def test_only_the_first_frame() -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(first, kind, save_all=True, append_images=[second])
        assert near(pixels(data, 16), planes(first), 3), kind


# ---- resizing


def test_fits() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (200, 100, 50)
    data = encoded(Image.fromarray(wide), "PNG")
    assert (pixels(data, 10) == np.array([200, 100, 50]).reshape(3, 1, 1)).all()
    whole = pixels(data, 30, fit="fit", background=RED)
    assert np.array_equal(whole[:, 10:20], wide.transpose(2, 0, 1))
    assert (whole[:, :10] == np.array(RED).reshape(3, 1, 1)).all()
    assert (whole[:, 20:] == np.array(RED).reshape(3, 1, 1)).all()
    stretched = pixels(data, 30, fit="stretch")
    assert np.array_equal(stretched[:, 0], wide[0].T)
    assert np.array_equal(stretched[:, 29], wide[9].T)


@pytest.mark.parametrize("fit", ["crop", "fit", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (7, 3), (300, 299)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_every_shape_fits(fit: Fit, shape: tuple[int, int], size: int) -> None:
    for kind, error in (("PNG", 0), ("JPEG", 3)):  # JPEG's own rounding of this colour
        made = pixels(encoded(Image.new("RGB", shape, "teal"), kind), size, 3, fit)
        assert made.shape == (3, size, size)
        teal_HW = np.abs(made.astype(int) - np.array([0, 128, 128])[:, None, None]).max(0) <= error
        white_HW = (made == 255).all(0)
        assert teal_HW.any()
        assert (teal_HW | white_HW).all()
        assert fit == "fit" or teal_HW.all()


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = pixels(encoded(Image.fromarray(stripes), "PNG"), 8, 1)
    assert abs(small.mean() - 127.5) < 3
    assert small.std() < 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(640, 480), (480, 641), (1001, 750), (2000, 500)])
def test_reading_a_jpeg_at_a_fraction_changes_little(shape: tuple[int, int], channels: int) -> None:
    data = encoded(photo(*shape), "JPEG", quality=90)
    full = Image.open(io.BytesIO(data)).convert("RGB")
    size, by = (32, 32), Image.Resampling.LANCZOS
    for fit, expected in {
        "crop": ImageOps.fit(full, size, by),
        "fit": ImageOps.pad(full, size, by, color=WHITE),
        "stretch": full.resize(size, by),
    }.items():
        wanted = planes(expected) if channels == 3 else np.asarray(expected.convert("L"))[None]
        assert near(pixels(data, 32, channels, fit), wanted, 1.5), fit


def test_threads_agree_with_one() -> None:
    files = [encoded(photo(60 + number, 50), kind) for number in range(8) for kind in ("JPEG", "PNG", "WEBP")]
    with ThreadPoolExecutor(4) as pool:
        side_by_side = list(pool.map(lambda data: pixels(data, 16), files))
    assert all(np.array_equal(one, pixels(data, 16)) for one, data in zip(side_by_side, files, strict=True))


# ---- damage


@pytest.mark.parametrize("name", BAD_FILES)
def test_damaged_files_give_a_reason_quickly(name: str) -> None:
    data, reason = BAD_FILES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = time.perf_counter()
        found = decode(data, 16, 3)
    assert isinstance(found, str)
    assert reason in found
    assert "\n" not in found
    assert time.perf_counter() - before < 1


def test_metadata_warnings_are_not_shown() -> None:
    bad_tag = FILES["exif-6.jpg"].replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x05")
    bad_tag = bad_tag.replace(b"\x12\x01\x03\x00", b"\x12\x01\x05\x00")
    assert bad_tag != FILES["exif-6.jpg"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pixels(bad_tag)
        assert seen
        seen.clear()
        importlib.reload(decode_module)  # whose filters then come before that of the test
        assert isinstance(decode_module.decode(bad_tag, 16, 3), np.ndarray)
        assert not seen


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_chance_damage_never_escapes() -> None:
    """Bytes changed and files cut, the same ones each time. Longer runs of this found nothing else."""
    random = np.random.default_rng(0)
    small = photo(9, 7)
    seeds = [
        encoded(small, "PNG"),
        encoded(small.quantize(8), "PNG", transparency=2),
        encoded(small, "PNG", save_all=True, append_images=[small.rotate(180)]),
        encoded(small, "JPEG", exif=with_exif(6)),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "WEBP", exif=with_exif(3)),
        encoded(small.convert("RGBA"), "WEBP", lossless=True),
        encoded(small, "GIF", save_all=True, append_images=[small.rotate(180)]),
        encoded(small, "BMP"),
        encoded(small.convert("1"), "BMP"),
        png(4, 4, b"\0\1\2\3\4" * 4, GREY_8),
    ]
    for seed in seeds:
        for case in range(100):
            data = bytearray(seed)
            for _ in range(random.integers(1, 4)):
                data[random.integers(len(data) if case % 2 else min(64, len(data)))] = random.integers(256)
            before = time.perf_counter()
            result = decode(bytes(data[: random.integers(len(data)) if case % 4 == 0 else None]), 8, 3)
            assert time.perf_counter() - before < 1
            assert isinstance(result, str) or result.shape == (3, 8, 8)


def test_an_indexed_png_without_its_colours() -> None:
    """Pillow asserts that they are there: the fault is the file's."""
    buffer = io.BytesIO()
    Image.new("P", (9, 9)).save(buffer, "PNG")
    data = buffer.getvalue()
    start = data.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    said = decode(data[:start] + data[end:], 8, 3)
    assert isinstance(said, str) and said.startswith("damaged"), said
