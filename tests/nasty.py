"""A folder of every kind of file that a folder of pictures should not hold, or holds in an unusual way."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8, GREY_8, RGB_16 = (8, 2), (8, 0), (16, 2)
DAMAGED = "damaged"


def photo(width: int = 24, height: int = 24) -> Image.Image:
    """Smooth in places, sharp in others, coloured."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 5, height))
    waves = [np.sin(x * k + y) + np.cos(y * (4 - k) - x) for k in (1, 2, 3)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) * 55 + 128 + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes, kind: tuple[int, int] = RGB_8, before_pixels: bytes = b""
) -> bytes:
    """A PNG by hand; `rows` with their filter bytes, not yet compressed."""
    header = struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return SIGNATURE + chunk(b"IHDR", header) + before_pixels + pixels + chunk(b"IEND", b"")


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def text_chunk(kind: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if kind == "long":
        info.add_text("comment", "x" * 500_000)
    else:
        info.add_text("comment", "x" * 8_000_000, zip=True)
    return info


def damaged() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be read, and a part of the reason."""
    whole = photo()
    one_png, one_jpeg = encoded(whole, "PNG"), encoded(whole, "JPEG")
    webp, gif, bmp = encoded(whole, "WEBP"), encoded(whole, "GIF"), encoded(whole, "BMP")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x.png", one_png)
    wrong_checksum = bytearray(one_png)
    wrong_checksum[one_png.index(b"IEND") - 5] ^= 1  # the last byte of the checksum of the pixels
    wrong_pixels = bytearray(one_png)
    wrong_pixels[one_png.index(b"IDAT") + 200] ^= 255
    frame = gif.rindex(struct.pack("<BHHHH", ord(","), 0, 0, 24, 24)) + 5
    no_gif_pixels = gif[:6] + bytes(4) + gif[10:frame] + bytes(4) + gif[frame + 4 :]
    gif_bomb = gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    no_bmp_pixels = bmp[:18] + struct.pack("<ii", 0, 0) + bmp[26:]
    jpeg_bomb = bytearray(one_jpeg)
    start = one_jpeg.index(b"\xff\xc0") + 5
    jpeg_bomb[start : start + 4] = struct.pack(">HH", 65500, 65500)
    scans = one_jpeg[:-2] + one_jpeg[one_jpeg.index(b"\xff\xda") : -2] * 600 + one_jpeg[-2:]
    return {
        "empty.png": (b"", "an empty file"),
        "text.jpg": (b"no picture at all\n", "no PNG, JPEG, WebP, BMP or GIF"),
        "zeros.jpg": (bytes(4096), "a file of zeros"),
        "page.png": (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "zip.png": (archive.getvalue(), "a ZIP archive"),
        "tiff.png": (encoded(whole, "TIFF"), "a TIFF picture"),
        "ico.png": (encoded(whole, "ICO"), "an ICO icon"),
        "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        "only-signature.png": (SIGNATURE, DAMAGED),
        "truncated-png.png": (one_png[: len(one_png) // 2], "truncated"),
        "truncated-jpeg.jpg": (one_jpeg[: len(one_jpeg) * 3 // 4], "truncated"),
        "truncated-webp.webp": (webp[: len(webp) // 2], DAMAGED),
        "truncated-gif.gif": (gif[: len(gif) - 50], "truncated"),
        "truncated-bmp.bmp": (bmp[: len(bmp) // 2], "truncated"),
        "wrong-checksum.png": (bytes(wrong_checksum), "checksum of its IDAT"),
        "wrong-pixels.png": (bytes(wrong_pixels), "checksum of its IDAT"),
        "pixel-bomb.png": (png(50_000, 50_000, bytes(1000)), "50000 x 50000 pixels; at most 89 million"),
        "pixel-bomb-below-twice.png": (png(12_000, 12_000, b"", GREY_8), "12000 x 12000 pixels"),
        "thin-bomb.png": (png(1, 80_000_000, b"", GREY_8), "at most 1 million a side"),
        "pixel-bomb.gif": (gif_bomb, "65535 x 65535 pixels"),
        "pixel-bomb.jpg": (bytes(jpeg_bomb), "65500 x 65500 pixels"),
        "scan-bomb.jpg": (scans, "scans"),
        "text-bomb.png": (encoded(whole, "PNG", pnginfo=text_chunk("bomb")), "MAX_TEXT_CHUNK"),
        "no-pixels.png": (png(0, 5, b""), "without pixels"),
        "no-pixels.gif": (no_gif_pixels, DAMAGED),
        "no-pixels.bmp": (no_bmp_pixels, DAMAGED),
        "all-pixels-missing.png": (png(24, 24, b""), "truncated"),
    }


def unusual() -> dict[str, bytes]:
    """Files that are fine, though a careless reader gets some of them wrong."""
    whole = photo()
    ramp = np.linspace(0, 65535, 24 * 24).reshape(24, 24)
    rows_16 = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in ramp)
    alpha = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1)))
    rgba = whole.copy()
    rgba.putalpha(alpha)
    bmp = encoded(whole, "BMP")
    top_down = bmp[:22] + struct.pack("<i", -24) + bmp[26:]
    frames = [whole.rotate(90), whole.rotate(180)]
    files = {
        "plain.png": encoded(whole, "PNG"),
        "plain.jpeg": encoded(whole, "JPEG"),
        "progressive.jpg": encoded(whole, "JPEG", progressive=True),
        "SHOUTED.PNG": encoded(whole, "PNG"),
        "grey-16-bit.png": encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        "rgb-16-bit.png": png(24, 24, rows_16, RGB_16),
        "palette.png": encoded(whole.quantize(16), "PNG"),
        "palette-transparent.png": encoded(whole.quantize(16), "PNG", transparency=3),
        "rgb-transparent-colour.png": encoded(whole, "PNG", transparency=(0, 0, 0)),
        "one-bit.png": encoded(whole.convert("1"), "PNG"),
        "grey-alpha.png": encoded(rgba.convert("LA"), "PNG"),
        "alpha.png": encoded(rgba, "PNG"),
        "alpha.webp": encoded(rgba, "WEBP"),
        "cmyk.jpg": encoded(whole.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(whole.convert("L"), "JPEG"),
        "garbage-exif.jpg": encoded(whole, "JPEG", exif=b"Exif\0\0" + b"\xff\x13" * 50),
        "garbage-icc.jpg": encoded(whole, "JPEG", icc_profile=b"no profile" * 9),
        "garbage-icc.png": encoded(whole, "PNG", icc_profile=b"no profile" * 9),
        "animated.gif": encoded(whole, "GIF", save_all=True, append_images=frames),
        "animated.webp": encoded(whole, "WEBP", save_all=True, append_images=frames),
        "animated.png": encoded(whole, "PNG", save_all=True, append_images=frames),
        "jpeg-named.png": encoded(whole, "JPEG"),
        "top-down.bmp": top_down,
        "one-pixel.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "1x5000.png": encoded(photo(1, 5000), "PNG"),
        "long-text.png": encoded(whole, "PNG", pnginfo=text_chunk("long")),
        "bytes-after-the-end.jpg": encoded(whole, "JPEG") + b"more" * 100,
        "two words, ünïcödé 絵 🎨.png": encoded(whole, "PNG"),
        "[red]markup.png": encoded(whole, "PNG"),
        "n" * 251 + ".png": encoded(whole, "PNG"),
    }
    for orientation in range(1, 9):
        files[f"exif-{orientation}.jpg"] = encoded(whole, "JPEG", exif=with_exif(orientation))
    return files


def make_nasty(root: Path) -> dict[str, str]:
    """Write them below `root`, a new folder; by listed name "ok" or a part of the expected reason."""
    root.mkdir()
    expected = {}
    for name, data in unusual().items():
        (root / name).write_bytes(data)
        expected[name] = "ok"
    for name, (data, reason) in damaged().items():
        (root / name).write_bytes(data)
        expected[name] = reason
    plain = unusual()["plain.png"]
    outside = root.with_name(f"{root.name}-outside")
    outside.mkdir()
    (outside / "secret.png").write_bytes(plain)
    (root / "folder.png").mkdir()
    (root / "folder.png" / "inside.png").write_bytes(plain)
    (root / "line\nbreak\x1b[31m.png").write_bytes(plain)
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(plain)
    (root / "caf\\udce9.png").write_bytes(plain)  # what the one before it is printed as, if not with care
    with (root / "sparse-300-MiB.png").open("wb") as file:
        file.truncate(300 * 2**20)
    os.mkfifo(root / "fifo.png")
    os.mknod(root / "socket.png", stat.S_IFSOCK | 0o600)
    for name, target in {
        "link-inside.png": "plain.png",
        "link-out.png": outside / "secret.png",
        "link-dangling.png": "nothing.png",
        "link-loop.png": "link-loop.png",
        "link-to-device.png": "/dev/zero",
        "link-to-fifo.png": "fifo.png",
        "link-to-root": ".",
        "link-to-outside": outside,
    }.items():
        (root / name).symlink_to(target)
    expected |= {
        "folder.png/inside.png": "ok",
        "line\\nbreak\\x1b[31m.png": "ok",
        "caf\\udce9.png": "ok",
        "caf\\\\udce9.png": "ok",
        "sparse-300-MiB.png": "more than 256 MiB",
        "fifo.png": "a named pipe, not a regular file",
        "socket.png": "a socket, not a regular file",
        "link-inside.png": "ok",
        "link-out.png": "a link out of the folder",
        "link-dangling.png": "a link to nothing",
        "link-loop.png": "a link that leads to itself",
        "link-to-device.png": "a link out of the folder",
        "link-to-fifo.png": "a named pipe, not a regular file",
        "link-to-root": "a link to a folder that holds it",
        "link-to-outside": "a link out of the folder",
    }
    if os.geteuid() != 0:  # root may read everything
        (root / "forbidden.png").write_bytes(plain)
        (root / "forbidden.png").chmod(0)
        expected["forbidden.png"] = "cannot be read: permission denied"
    return expected
