# SPDX-License-Identifier: BSD-3-Clause
"""Draw a measured plate as one HTML page that needs nothing but itself: plate_page.html.j2, .css and .js."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Eleven samples of the colour map viridis: even steps look even, also in grey and to the colour-blind.
VIRIDIS = (
    "440154",
    "482475",
    "414487",
    "355f8d",
    "2a788e",
    "21918c",
    "22a884",
    "44bf70",
    "7ad151",
    "bddf26",
    "fde725",
)
USER_COLOURS = ("#e4572e", "#2e86de", "#8e44ad", "#16a085")

PITCH = 56  # from well to well, in SVG units
RADIUS = 23
LEFT, TOP = 40, 40  # the room for the names of rows and columns


@dataclass(frozen=True)
class Well:
    """What the page shows of one well; the measured values are None where measuring failed."""

    name: str
    condition: str
    user: str
    job: str
    host: str
    seconds: float | None
    spots: int | None
    mean_area_px: float | None
    mean_intensity: float | None
    preview_png: bytes | None
    error: str | None


@dataclass(frozen=True)
class Run:
    """What the page shows of one user's run."""

    user: str
    jobs: Sequence[str]
    tasks: int
    succeeded: int
    seconds: float
    sudo_calls: int


def colour(fraction: float) -> str:
    """Give the colour of a value between 0 and 1."""
    position = min(max(fraction, 0.0), 1.0) * (len(VIRIDIS) - 1)
    lower = min(int(position), len(VIRIDIS) - 2)
    share = position - lower
    channels = (
        round(int(VIRIDIS[lower][i : i + 2], 16) * (1 - share) + int(VIRIDIS[lower + 1][i : i + 2], 16) * share)
        for i in (0, 2, 4)
    )
    return "#{:02x}{:02x}{:02x}".format(*channels)


def _details(well: Well) -> dict[str, object]:
    """Collect what the panel shows of a well: a title, lines of (name, value), and a picture."""
    lines = [("treated with", well.condition)]
    if well.error is not None:
        lines.append(("not measured", well.error))
    else:
        lines += [
            ("spots", f"{well.spots}"),
            ("mean area", "-" if well.mean_area_px is None else f"{well.mean_area_px} px"),
            ("mean intensity", "-" if well.mean_intensity is None else f"{well.mean_intensity}"),
        ]
    lines += [("measured by", well.user), ("SLURM job", f"{well.job} on {well.host}")]
    if well.seconds is not None:
        lines.append(("took", f"{well.seconds:.2f} s"))
    picture = "" if well.preview_png is None else base64.b64encode(well.preview_png).decode()
    if picture:
        lines.append(("picture", "the first of the well's sites; the spots are those of all its sites"))
    return {"title": f"Well {well.name}", "lines": lines, "picture": picture}


def _drawn(well: Well, most: int) -> dict[str, object]:
    """What the template needs to draw a well: its place, its colour, and what a reader hears of it."""
    place = {
        "user": well.user,
        "spots": well.spots,
        "row": ord(well.name[0]) - ord("A"),
        "column": int(well.name[1:]) - 1,
    }
    if well.spots is None:
        return {**place, "label": f"{well.name}, not measured: {well.error}", "fill": "none"}
    fraction = well.spots / most
    label = f"{well.name}, {well.condition}: {well.spots} spots, measured by {well.user}"
    return {**place, "label": label, "fill": colour(fraction), "tone": "dark" if fraction > 0.6 else "pale"}


def build_page(plate: str, wells: Sequence[Well], runs: Sequence[Run]) -> str:
    """Build the page.

    Args:
        plate: The plate's name.
        wells: At least one well, in the order in which the tab key visits them.
        runs: One a user; each user of a well has one.

    Returns:
        HTML that refers to nothing outside itself.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    most = max([well.spots for well in wells if well.spots is not None], default=0) or 1
    drawn = [_drawn(well, most) for well in wells]
    template = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    ).get_template("plate_page.html.j2")
    return template.render(
        plate=plate,
        wells=drawn,
        runs=runs,
        details=[_details(well) for well in wells],
        rings={run.user: USER_COLOURS[index % len(USER_COLOURS)] for index, run in enumerate(runs)},
        most=most,
        measured=sum(well.spots is not None for well in wells),
        jobs=sum(len(run.jobs) for run in runs),
        rows=max(ord(well.name[0]) - ord("A") for well in wells) + 1,
        columns=max(int(well.name[1:]) for well in wells),
        levels=[f"#{level}" for level in VIRIDIS],
        pitch=PITCH,
        radius=RADIUS,
        left=LEFT,
        top=TOP,
    )
