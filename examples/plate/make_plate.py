#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make the images of one 96-well plate: a dose-response experiment with a known answer.

A well is one PGM file that holds a sequence of images, one a site, as the netpbm formats allow. Each site is
8-bit noise with bright spots ("cells") on it. Spots never touch, so the number planted is the number that a
correct measurement finds; layout.json beside the images says it.

The plate: column 1 is untreated, column 12 is the killed control, and columns 2 to 11 are ten rising doses of four
compounds, each in two neighbouring rows. The more of a compound, the fewer cells, and the larger and the brighter
those that are left.

Everything follows from the names of the plate and the well: the same names give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

ROWS = "ABCDEFGH"
COLUMNS = range(1, 13)
WELLS = tuple(f"{row}{column:02d}" for row in ROWS for column in COLUMNS)

SITES = 4
SITE_SIZE = 512  # pixels a side
BACKGROUND = NormalDist(mu=20, sigma=3)  # grey levels of a site without spots

# One spot at most in a square of the grid, so far from its edges that neighbours never touch.
GRID_PITCH = 40
GRID_SQUARES = SITE_SIZE // GRID_PITCH
GRID_MARGIN = (SITE_SIZE - GRID_SQUARES * GRID_PITCH) // 2

UNTREATED_SPOTS = 90  # a site
KILLED_SPOTS = 4
HALF_EFFECT_DOSE = {"A": 8.0, "C": 6.0, "E": 4.0, "G": 2.0}  # by the first row of the compound, in dose steps
HILL_SLOPE = 0.9


class Condition(NamedTuple):
    """What was done to a well, and how many of its cells are expected to live (1 untreated, 0 killed)."""

    label: str
    survival: float


class Spot(NamedTuple):
    """One spot: its centre and radius in pixels, and the grey level at its centre."""

    x: int
    y: int
    radius: int
    peak: int


def condition(well: str) -> Condition:
    """Say what was done to a well such as ``B07``."""
    row, column = well[0], int(well[1:])
    if column == COLUMNS[0]:
        return Condition("untreated", 1.0)
    if column == COLUMNS[-1]:
        return Condition("killed control", 0.0)
    first_row = ROWS[ROWS.index(row) // 2 * 2]
    dose = column - 1  # 1 to 10
    survival = 1 / (1 + math.exp(HILL_SLOPE * (dose - HALF_EFFECT_DOSE[first_row])))
    compound = ROWS.index(row) // 2 + 1
    return Condition(f"compound {compound}, dose {dose}", survival)


def place_spots(well: str, generator: random.Random) -> list[Spot]:
    """Choose the spots of one site of a well."""
    survival = condition(well).survival
    mean = KILLED_SPOTS + survival * (UNTREATED_SPOTS - KILLED_SPOTS)
    number = max(1, round(generator.gauss(mean, 0.04 * mean)))
    spots = []
    for square in generator.sample(range(GRID_SQUARES**2), number):
        radius = generator.choice((4, 5)) + round(3 * (1 - survival))
        peak = round(110 + 90 * (1 - survival) + generator.uniform(-15, 15))
        room = GRID_PITCH // 2 - radius - 2
        x, y = (
            GRID_MARGIN + GRID_PITCH * place + GRID_PITCH // 2 + generator.randint(-room, room)
            for place in (square % GRID_SQUARES, square // GRID_SQUARES)
        )
        spots.append(Spot(x, y, radius, peak))
    return spots


@cache
def spot_rows(radius: int, peak: int) -> tuple[tuple[int, int, bytes], ...]:
    """Draw a domed disc as rows of bytes: (y from the centre, first x from the centre, grey levels)."""
    rows = []
    for y in range(-radius, radius + 1):
        half = math.isqrt(radius * radius - y * y)
        levels = bytes(
            round(peak * (0.6 + 0.4 * math.sqrt(1 - (x * x + y * y) / radius**2))) for x in range(-half, half + 1)
        )
        rows.append((y, -half, levels))
    return tuple(rows)


@cache
def noise_table() -> bytes:
    """Map 256 equally likely bytes to grey levels that are distributed as BACKGROUND."""
    return bytes(round(BACKGROUND.inv_cdf((value + 0.5) / 256)) for value in range(256))


def draw_site(spots: list[Spot], generator: random.Random) -> bytearray:
    """Draw one site: noise, then the spots stamped on it row by row."""
    site = bytearray(generator.randbytes(SITE_SIZE * SITE_SIZE).translate(noise_table()))
    for spot in spots:
        for y, x, levels in spot_rows(spot.radius, spot.peak):
            start = (spot.y + y) * SITE_SIZE + spot.x + x
            site[start : start + len(levels)] = levels
    return site


def make_well(plate: str, well: str) -> tuple[bytes, list[int]]:
    """Make the image file of one well.

    Returns the bytes of the file and the number of spots planted in each site.
    """
    generator = random.Random(f"{plate}/{well}")
    images: list[bytes | bytearray] = []
    planted: list[int] = []
    for site in range(1, SITES + 1):
        spots = place_spots(well, generator)
        header = f"P5\n# plate {plate}, well {well}, site {site} of {SITES}\n{SITE_SIZE} {SITE_SIZE}\n255\n"
        images += [header.encode(), draw_site(spots, generator)]
        planted.append(len(spots))
    return b"".join(images), planted


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever reads half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def make_plate(folder: Path, plate: str, wells: tuple[str, ...] = WELLS) -> list[dict[str, object]]:
    """Write the images of a plate and its layout.json into a folder, which is made if needed.

    Returns what layout.json holds: for each well its name, its image's absolute path, what was done to it, and the
    number of spots planted in each site.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layout: list[dict[str, object]] = []
    for well in wells:
        content, planted = make_well(plate, well)
        path = (folder / f"{well}.pgm").resolve()
        write_file(path, content)
        layout.append({"well": well, "image": str(path), "condition": condition(well).label, "planted_spots": planted})
    write_file(folder / "layout.json", (json.dumps(layout, indent=1) + "\n").encode())
    return layout


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the images of one 96-well plate, about 1 MB a well.")
    parser.add_argument("folder", type=Path, help="where to write A01.pgm to H12.pgm and layout.json")
    parser.add_argument("--plate", default="demo", help="the plate's name, from which all is drawn (default: demo)")
    parser.add_argument("--wells", nargs="+", choices=WELLS, default=WELLS, metavar="WELL", help="only these wells")
    arguments = parser.parse_args()
    try:
        layout = make_plate(arguments.folder, arguments.plate, tuple(arguments.wells))
    except OSError as error:
        print(f"make_plate: {error.filename}: can't be written: {error.strerror}.", file=sys.stderr)
        return 1
    print(f"{len(layout)} wells in {arguments.folder.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
