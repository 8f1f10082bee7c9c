# SPDX-License-Identifier: BSD-3-Clause
"""Draw a measured plate as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
    return {"title": f"Well {well.name}", "lines": lines, "picture": picture}


def _well_svg(index: int, well: Well, most: int, ring: str) -> str:
    """Draw one well as a circle, or as an empty one with a cross if measuring failed."""
    row, column = ord(well.name[0]) - ord("A"), int(well.name[1:]) - 1
    x, y = LEFT + PITCH * column + PITCH // 2, TOP + PITCH * row + PITCH // 2
    if well.spots is None:
        label = f"{well.name}, not measured: {well.error}"
        fill, value = "none", f'<path d="M{x - 9} {y - 9}l18 18m0 -18l-18 18" class="cross"/>'
    else:
        label = f"{well.name}, {well.condition}: {well.spots} spots, measured by {well.user}"
        fraction = well.spots / most
        fill = colour(fraction)
        tone = "dark" if fraction > 0.6 else "pale"
        value = f'<text x="{x}" y="{y + 4.5}" class="value {tone}">{well.spots}</text>'
    return (
        f'<g class="well" tabindex="0" data-index="{index}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>"
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="{fill}" stroke="{ring}"/>{value}</g>'
    )


def _plate_svg(wells: Sequence[Well], rings: dict[str, str], most: int) -> str:
    """Draw the plate, and below it the scale of the colours."""
    rows = max(ord(well.name[0]) - ord("A") for well in wells) + 1
    columns = max(int(well.name[1:]) for well in wells)
    width, plate_height = LEFT + PITCH * columns + 12, TOP + PITCH * rows + 12
    parts = [
        f'<svg viewBox="0 0 {width} {plate_height + 58}" xmlns="http://www.w3.org/2000/svg">',
        f'<rect class="plate" x="{LEFT - 8}" y="{TOP - 8}" rx="18"',
        f' width="{PITCH * columns + 16}" height="{PITCH * rows + 16}"/>',
    ]
    for column in range(columns):
        parts.append(f'<text x="{LEFT + PITCH * column + PITCH // 2}" y="22" class="axis">{column + 1}</text>')
    for row in range(rows):
        parts.append(f'<text x="16" y="{TOP + PITCH * row + PITCH // 2 + 5}" class="axis">{chr(ord("A") + row)}</text>')
    parts += [_well_svg(index, well, most, rings[well.user]) for index, well in enumerate(wells)]

    scale_width = PITCH * columns
    stops = "".join(f'<stop offset="{i * 10}%" stop-color="#{level}"/>' for i, level in enumerate(VIRIDIS))
    parts.append(
        f'<defs><linearGradient id="scale">{stops}</linearGradient></defs>'
        f'<rect x="{LEFT}" y="{plate_height + 14}" width="{scale_width}" height="12" rx="6" fill="url(#scale)"/>'
    )
    for fraction, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = f"{round(most * fraction)}" + (" spots a well" if fraction == 0.5 else "")
        x = LEFT + scale_width * fraction
        parts.append(f'<text x="{x}" y="{plate_height + 46}" class="axis" style="text-anchor:{anchor}">{text}</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _runs_table(runs: Sequence[Run], rings: dict[str, str]) -> str:
    """Say in a table who ran what."""
    rows = "".join(
        f'<tr><td><span class="ring" style="border-color:{rings[run.user]}"></span>{escape(run.user)}</td>'
        f"<td>{escape(', '.join(run.jobs))}</td><td>{run.succeeded} of {run.tasks}</td>"
        f"<td>{run.seconds:.1f} s</td><td>{run.sudo_calls}</td></tr>"
        for run in runs
    )
    return (
        "<table><thead><tr><th>measured by</th><th>SLURM jobs</th><th>wells</th><th>time</th><th>sudo calls</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


STYLE = """
:root { color-scheme: light dark; --text: #1d2433; --soft: #687086; --page: #f5f6f9; --card: #fff; --line: #d9dde6 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8ebf2; --soft: #9aa3b8; --page: #14171f; --card: #1d212c; --line: #343a49 }
}
body { margin: 0; padding: 2rem; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1120px; margin: auto; display: grid; grid-template-columns: minmax(0, 1fr) 250px; gap: 1.25rem }
header, .wide { grid-column: 1 / -1 }
h1 { margin: 0; font-size: 1.6rem } h2 { margin: 0 0 .5rem; font-size: 1.15rem }
p { margin: .25rem 0; color: var(--soft) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.1rem }
svg { width: 100%; height: auto; display: block } .plate { fill: none; stroke: var(--line); stroke-width: 2 }
.axis { fill: var(--soft); font-size: 15px; text-anchor: middle }
.well { cursor: pointer; outline: none } .well circle { stroke-width: 3.5 }
.well:hover circle, .well:focus circle, .well.shown circle { stroke-width: 7 }
.value { font-size: 13px; text-anchor: middle; pointer-events: none } .dark { fill: #10131a } .pale { fill: #fff }
.cross { stroke: var(--text); stroke-width: 3; stroke-linecap: round }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem .75rem; margin: .75rem 0 0; font-size: .9rem }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
#picture { width: 100%; aspect-ratio: 1; border-radius: 8px; background: #000; display: block }
#picture[hidden] { display: none }
table { border-collapse: collapse; width: 100% } th { font-weight: 500; color: var(--soft) }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line) }
tr:last-child td { border-bottom: 0 }
.ring { display: inline-block; width: .7em; height: .7em; border: 3px solid; border-radius: 50%; margin-right: .5em }
@media (max-width: 760px) { body { padding: 1rem } main { grid-template-columns: minmax(0, 1fr) } }
"""

SCRIPT = """
const wells = JSON.parse(document.getElementById("wells").textContent);
const element = (name, text) => Object.assign(document.createElement(name), {textContent: text});
function show(node) {
  const well = wells[node.dataset.index];
  document.querySelectorAll(".shown").forEach(other => other.classList.remove("shown"));
  node.classList.add("shown");
  document.getElementById("title").textContent = well.title;
  const picture = document.getElementById("picture");
  picture.hidden = !well.picture;
  picture.src = well.picture ? "data:image/png;base64," + well.picture : "";
  picture.alt = "First site of " + well.title.toLowerCase();
  document.getElementById("lines").replaceChildren(
    ...well.lines.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}
for (const node of document.querySelectorAll(".well"))
  for (const event of ["mouseenter", "focus", "click"]) node.addEventListener(event, () => show(node));
show(document.querySelector(".well"));
"""


def build_page(plate: str, wells: Sequence[Well], runs: Sequence[Run]) -> str:
    """Build the page.

    Args:
        plate: The plate's name.
        wells: At least one well, in the order in which the tab key visits them.
        runs: One a user; each user of a well has one.

    Returns:
        HTML that refers to nothing outside itself.
    """
    rings = {run.user: USER_COLOURS[index % len(USER_COLOURS)] for index, run in enumerate(runs)}
    most = max([well.spots for well in wells if well.spots is not None], default=0) or 1
    jobs = sum(len(run.jobs) for run in runs)
    measured = sum(well.spots is not None for well in wells)
    # In a script element only "<" could end it early; \u003c is the same character to JSON.
    details = json.dumps([_details(well) for well in wells]).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plate {escape(plate)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Plate {escape(plate)}</h1>
<p>{measured} of {len(wells)} wells measured on SLURM by {len(runs)} users, in {jobs} jobs.
Column 1 is untreated, column 12 the killed control; in between, doses rise from left to right.
The ring says who measured a well.</p>
</header>
<section class="card">{_plate_svg(wells, rings, most)}</section>
<aside class="card">
<h2 id="title"></h2>
<img id="picture" alt="" hidden>
<dl id="lines"></dl>
</aside>
<section class="card wide">{_runs_table(runs, rings)}</section>
</main>
<script type="application/json" id="wells">{details}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""
