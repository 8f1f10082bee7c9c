#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Count and measure the bright spots of one well: a Fractal task, with the standard library only.

Fractal's task interface: ``measure_well.py --args-json FILE --out-json FILE``. The arguments are

    {"well": "B07", "image": "/abs/B07.pgm"}

and the result is {"well", "spots", "spots_by_site", "mean_area_px", "mean_intensity", "background", "threshold",
"preview", "measured_by"}: lengths and areas in pixels, intensities in grey levels above the background.

Two environment variables show how a Fractal SLURM config reaches a task:

PLATE_THRESHOLD_SIGMAS (from extra_lines, the same for everybody): how many standard deviations of the noise above
the background a pixel of a spot lies; 6 if unset.

PLATE_PREVIEW_DIR (from user_local_exports, each user's own): the folder that gets a small picture of the well. No
picture is made if it is unset.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import struct
import sys
import zlib
from collections import Counter
from typing import Any, NamedTuple

SMALLEST_SPOT = 5  # pixels; less is noise
PREVIEW_STEP = 2  # a preview keeps every second pixel of every second line

_GAP = rb"(?:\s|#[^\n]*\n)+"
PGM_HEADER = re.compile(rb"P5" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
RUN = re.compile(rb"\x01+")


class TaskError(Exception):
    """The well can't be measured; the message is a sentence for whoever made the arguments or the image."""


class Image(NamedTuple):
    """An 8-bit grey image, row by row."""

    width: int
    height: int
    pixels: bytes


class Spot(NamedTuple):
    """A connected set of bright pixels: how many, and the sum of their grey levels."""

    area: int
    total: int


def parse_pgm(content: bytes, name: str) -> list[Image]:
    """Split a PGM file into the images that it holds one after another.

    Args:
        content: The whole file.
        name: What to call the file in errors.

    Raises:
        TaskError: The content is no sequence of binary 8-bit PGM images.
    """
    images: list[Image] = []
    start = 0
    while start < len(content):
        which = f"image {len(images) + 1}"
        header = PGM_HEADER.match(content, start)
        if header is None:
            raise TaskError(f"{name}: {which} does not begin with the header of a binary PGM file (P5).")
        width, height, brightest = (int(number) for number in header.groups())
        if not 0 < brightest < 256 or 0 in (width, height):
            raise TaskError(
                f"{name}: {which} is {width} x {height} with grey levels up to {brightest}; "
                "needed is an image that is not empty and has grey levels up to 255 at most."
            )
        pixels = content[header.end() : header.end() + width * height]
        if len(pixels) < width * height:
            raise TaskError(
                f"{name}: {which} should have {width} x {height} = {width * height} bytes of pixels, "
                f"but the file ends after {len(pixels)}. Was it copied whole?"
            )
        images.append(Image(width, height, pixels))
        start = header.end() + width * height
    if not images:
        raise TaskError(f"{name}: the file is empty.")
    return images


def background_level(pixels: bytes) -> tuple[int, float]:
    """Estimate the background of an image whose spots cover less than half of it.

    Returns the median grey level, and the standard deviation of the noise from the median absolute deviation.
    """
    histogram = Counter(pixels)

    def median(weighted_values: list[tuple[int, int]]) -> int:
        seen = 0
        for value, number in sorted(weighted_values):
            seen += number
            if 2 * seen >= len(pixels):
                return value
        raise AssertionError("the numbers add up to the number of pixels")

    level = median(list(histogram.items()))
    deviation = median([(abs(value - level), number) for value, number in histogram.items()])
    return level, max(1.4826 * deviation, 1.0)  # 1.4826: from the median deviation to the standard one, if normal


def find_spots(image: Image, threshold: int) -> list[Spot]:
    """Find the sets of pixels above a threshold that touch by an edge or a corner.

    Works on runs of bright pixels instead of pixels: the runs of a row are found by a regular expression, and those
    that touch a run of the row above join its set (union-find).
    """
    bright = image.pixels.translate(bytes(level > threshold for level in range(256)))
    parents: list[int] = []
    areas: list[int] = []
    totals: list[int] = []

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    above: list[tuple[int, int, int]] = []  # (start, end, label) of the runs of the row above
    for offset in range(0, len(bright), image.width):
        current: list[tuple[int, int, int]] = []
        candidate = 0
        for run in RUN.finditer(bright, offset, offset + image.width):
            start, end = run.start() - offset, run.end() - offset
            label = len(parents)
            parents.append(label)
            areas.append(end - start)
            totals.append(sum(image.pixels[run.start() : run.end()]))
            while candidate < len(above) and above[candidate][1] < start:
                candidate += 1
            touching = candidate
            while touching < len(above) and above[touching][0] <= end:
                parents[root(above[touching][2])] = root(label)
                touching += 1
            current.append((start, end, label))
        above = current

    spots: dict[int, Spot] = {}
    for label, (area, total) in enumerate(zip(areas, totals, strict=True)):
        spot = spots.get(root(label), Spot(0, 0))
        spots[root(label)] = Spot(spot.area + area, spot.total + total)
    return [spot for spot in spots.values() if spot.area >= SMALLEST_SPOT]


def preview_png(image: Image, black: int) -> bytes:
    """Draw a small picture of an image; grey levels up to ``black`` become black, the rest twice as bright."""
    stretch = bytes(min(255, 2 * max(0, level - black)) for level in range(256))
    rows = [
        b"\0" + image.pixels[start : start + image.width : PREVIEW_STEP].translate(stretch)
        for start in range(0, len(image.pixels), image.width * PREVIEW_STEP)
    ]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", len(rows[0]) - 1, len(rows), 8, 0, 0, 0, 0)  # 8-bit grey, not interlaced
    pixels = zlib.compress(b"".join(rows), level=9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def measure(well: str, image_path: str, sigmas: float, preview_folder: str | None) -> dict[str, Any]:
    """Measure one well.

    Args:
        well: The well's name, for the result and the preview's file name.
        image_path: A PGM file with one image a site.
        sigmas: How far above the background a spot's pixels lie, in standard deviations of the noise.
        preview_folder: Where to write WELL.png, made if needed; None for no preview.

    Raises:
        TaskError: The image is missing or wrong, or the preview can't be written.
    """
    try:
        with open(image_path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise TaskError(f"{image_path}: the image of well {well} can't be read: {error.strerror}.") from error
    sites = parse_pgm(content, image_path)
    level, noise = background_level(b"".join(site.pixels for site in sites))
    threshold = round(level + sigmas * noise)
    spots_by_site = [find_spots(site, threshold) for site in sites]
    spots = [spot for site_spots in spots_by_site for spot in site_spots]
    area = sum(spot.area for spot in spots)

    preview = None
    if preview_folder is not None:
        preview = os.path.join(preview_folder, f"{well}.png")
        try:
            os.makedirs(preview_folder, exist_ok=True)
            with open(preview, "wb") as file:
                file.write(preview_png(sites[0], threshold))
        except OSError as error:
            raise TaskError(f"{preview}: the preview can't be written: {error.strerror}.") from error

    return {
        "well": well,
        "spots": len(spots),
        "spots_by_site": [len(site_spots) for site_spots in spots_by_site],
        "mean_area_px": round(area / len(spots), 1) if spots else None,
        "mean_intensity": round(sum(spot.total for spot in spots) / area - level, 1) if spots else None,
        "background": level,
        "threshold": threshold,
        "preview": preview,
        "measured_by": pwd.getpwuid(os.geteuid()).pw_name,
    }


def read_arguments(path: str) -> tuple[str, str]:
    """Read the well's name and its image's path from the JSON file of arguments.

    Raises:
        TaskError: The file is no such JSON; the message names what is wrong.
    """
    try:
        with open(path, encoding="utf-8") as file:
            arguments = json.load(file)
    except OSError as error:
        raise TaskError(f"{path}: the arguments can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise TaskError(f"{path}: the arguments are no JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise TaskError(f"{path}: the arguments are {arguments!r}; needed is an object with well and image.")
    for key in ("well", "image"):
        if not isinstance(arguments.get(key), str):
            raise TaskError(f"{path}: {key} is {arguments.get(key)!r}; needed is a string.")
    if not re.fullmatch(r"[A-P](0[1-9]|1[0-9]|2[0-4])", arguments["well"]):
        # The name becomes a file name.
        raise TaskError(f"{path}: well is {arguments['well']!r}; needed is a row and a column, A01 to P24.")
    return arguments["well"], arguments["image"]


def threshold_sigmas() -> float:
    """Read PLATE_THRESHOLD_SIGMAS.

    Raises:
        TaskError: It is no number above 0.
    """
    text = os.environ.get("PLATE_THRESHOLD_SIGMAS", "6")
    try:
        sigmas = float(text)
    except ValueError:
        sigmas = 0.0
    if not 0 < sigmas < 256:
        raise TaskError(f"PLATE_THRESHOLD_SIGMAS is {text!r}; needed is a number above 0, for instance 6.")
    return sigmas


def main() -> int:
    """Run as a Fractal task; returns the exit code."""
    parser = argparse.ArgumentParser(description="Count and measure the bright spots of one well.")
    parser.add_argument("--args-json", required=True, metavar="FILE", help='{"well": NAME, "image": PATH}')
    parser.add_argument("--out-json", required=True, metavar="FILE", help="where to write the result")
    arguments = parser.parse_args()
    try:
        well, image = read_arguments(arguments.args_json)
        result = measure(well, image, threshold_sigmas(), os.environ.get("PLATE_PREVIEW_DIR"))
    except TaskError as error:
        print(f"measure_well: {error}", file=sys.stderr)
        return 1
    with open(arguments.out_json, "w", encoding="utf-8") as file:
        json.dump(result, file)
    print(f"{well}: {result['spots']} spots of {result['mean_area_px']} px above {result['threshold']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
