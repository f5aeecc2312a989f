"""Rows of pictures with words beside them, and moving ones, for people to look at.

Legend: R rows, K columns, T frames, N pictures, C channels, H height, W width. Pictures are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

GAP, FONT = 2, 12
SMALLEST_CELL = 48  # pixels: smaller pictures are enlarged by a whole factor


def labelled_grid(
    rows_RKCHW: Tensor, titles: Sequence[str] = (), headings: Sequence[str] = ()
) -> Image.Image:
    """A picture of R rows of K pictures, with a title left of each row and a heading above each column."""
    factor = enlargement(rows_RKCHW.shape[-1])
    rows, count = rows_RKCHW.shape[:2]
    height, width = (side * factor + GAP for side in rows_RKCHW.shape[-2:])
    font = ImageFont.load_default(FONT)
    left = 4 * GAP + max((int(font.getlength(title)) for title in titles), default=-4 * GAP)
    top = FONT + 4 * GAP if headings else 0
    canvas = Image.new("RGB", (left + count * width, top + rows * height), "white")
    ink = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        ink.text((left + (column + 0.5) * width, top / 2), heading, "black", font, "mm")
    for row, title in enumerate(titles):
        ink.text((left - 2 * GAP, top + (row + 0.5) * height), title, "black", font, "rm")
    for row in range(rows):
        for column in range(count):
            cell = enlarged(to_pil_image(rows_RKCHW[row, column]), factor)
            canvas.paste(cell, (left + column * width, top + row * height))
    return canvas


def enlargement(width: int) -> int:
    return max(1, -(-SMALLEST_CELL // width))


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def animation(rows_NTCHW: Tensor, milliseconds: int) -> bytes:
    """An endless GIF of N pictures side by side that go through T frames and back."""
    factor, frames = enlargement(rows_NTCHW.shape[-1]), []
    for images_NCHW in rows_NTCHW.unbind(1):
        grid = make_grid(images_NCHW, nrow=columns(len(images_NCHW)), padding=GAP, pad_value=255)
        frames.append(enlarged(to_pil_image(grid), factor).convert("RGB"))
    frames += frames[-2:0:-1]
    # One palette for all frames: with one each, still parts would flicker.
    palette = _side_by_side(frames).quantize(256)
    fixed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = BytesIO()
    fixed[0].save(
        file, "gif", save_all=True, append_images=fixed[1:], duration=milliseconds, loop=0, optimize=False
    )
    return file.getvalue()


def _side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames], 1))


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


def columns(count: int) -> int:
    """The width of a grid that is about square."""
    return max(1, math.ceil(math.sqrt(count)))


def png_bytes(image_CHW: Tensor) -> bytes:
    """A uint8 picture with 1 or 3 channels as a PNG file."""
    buffer = BytesIO()
    to_pil_image(image_CHW.to(torch.uint8).cpu()).save(buffer, "png")
    return buffer.getvalue()
