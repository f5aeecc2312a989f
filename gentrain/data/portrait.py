"""A data set as one picture: a grid of it, its mean, and how often each value occurs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from gentrain.data.summary import Summary

GRID = 512  # pixels of the grid's side, about
PLOT = (256, 160)  # width and height of the histogram
GAP, LINE = 12, 16
INKS = {1: ((60, 60, 60),), 3: ((200, 30, 30), (20, 130, 40), (30, 60, 200))}


def portrait(grid_NCHW: np.ndarray, summary: Summary, title: str) -> Image.Image:
    """uint8 pictures (N, C, H, W) for the grid -> an RGB picture for people."""
    grid = _grid(grid_NCHW)
    mean = _enlarged(_picture(summary.mean_CHW.round().astype(np.uint8)), PLOT[0])
    plot = _histogram(summary.histogram_C256)
    height = max(grid.height, mean.height + plot.height + 2 * LINE + GAP)
    canvas = Image.new("RGB", (grid.width + PLOT[0] + 3 * GAP, height + LINE + 3 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    left, top = grid.width + 2 * GAP, LINE + 2 * GAP
    draw.text((GAP, GAP), title, "black")
    canvas.paste(grid, (GAP, top))
    draw.text((left, top), "mean picture", "black")
    canvas.paste(mean, (left, top + LINE))
    top += LINE + mean.height + GAP
    draw.text((left, top), "values 0 .. 255: how often", "black")
    canvas.paste(plot, (left, top + LINE))
    return canvas


def _picture(image_CHW: np.ndarray) -> Image.Image:
    grey = len(image_CHW) == 1
    return Image.fromarray(image_CHW[0] if grey else image_CHW.transpose(1, 2, 0)).convert("RGB")


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    """By a whole factor, so that pixels stay squares; smaller only if it has to be."""
    factor = side // image.width
    size = (image.width * factor, image.height * factor) if factor else (side, side)
    return image.resize(size, Image.Resampling.NEAREST if factor else Image.Resampling.BOX)


def _grid(images_NCHW: np.ndarray) -> Image.Image:
    columns = int(np.ceil(np.sqrt(len(images_NCHW))))
    rows = -(-len(images_NCHW) // columns)
    cells = [_enlarged(_picture(image), max(1, GRID // columns)) for image in images_NCHW]
    pitch = cells[0].width + 2
    canvas = Image.new("RGB", (columns * pitch - 2, rows * pitch - 2), "white")
    for number, cell in enumerate(cells):
        canvas.paste(cell, (number % columns * pitch, number // columns * pitch))
    return canvas


def _histogram(histogram_C256: np.ndarray) -> Image.Image:
    """One curve a channel, heights by square root: a black border would hide all the rest."""
    width, height = PLOT
    canvas = Image.new("RGB", PLOT, (245, 245, 245))
    draw = ImageDraw.Draw(canvas)
    heights_C256 = np.sqrt(histogram_C256 / max(1, histogram_C256.max())) * (height - 4)
    for ink, heights_256 in zip(INKS[len(histogram_C256)], heights_C256, strict=True):
        xs = (np.arange(256) * (width - 1) / 255).tolist()
        ys = (height - 1 - heights_256).tolist()
        draw.line(list(zip(xs, ys, strict=True)), ink, 1)
    return canvas
