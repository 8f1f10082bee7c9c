# SPDX-License-Identifier: BSD-3-Clause
"""Plots as inline SVG, made here.

A library in the page (uPlot, Plotly) would be the largest part of it, somebody else's script under our content security
policy, and nothing to see where scripts are off or to a screen reader. What is drawn is simple: bars in lanes, and
histograms. All tasks of a lane are one path, so ten thousand of them are a few hundred elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from .facts import Bar, JobLanes, Use

_WIDTH, _LEFT, _LANE, _GAP = 1000, 110, 9, 6
# More lanes than this are not drawn: nobody reads them.
_MOST_LANES = 1500
_BINS = 30


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def nice_step(span: float, parts: int) -> float:
    """A round distance of ticks, so that there are about so many."""
    raw = max(span, 1e-9) / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)


def clock(seconds: float) -> str:
    """A tick of the time axis."""
    whole = round(seconds)
    if whole < 120:
        return f"{_number(seconds)} s"
    if whole < 7200:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def timeline_svg(rows: Sequence[JobLanes]) -> str:
    """Who waited, who started up, who ran: a band for each job, a lane for each of its slots."""
    ends = [at for row in rows for at in (row.submitted, row.began, row.ended) if at is not None]
    ends += [lane[-1].end for row in rows for lane in row.lanes]
    whole = max([1.0, *ends])
    scale = (_WIDTH - _LEFT - 10) / whole

    def x(at: float) -> float:
        return _LEFT + at * scale

    parts: list[str] = []
    y, drawn = 4.0, 0
    for row in rows:
        height = _LANE * max(1, len(row.lanes))
        if drawn + max(1, len(row.lanes)) > _MOST_LANES:
            break
        drawn += max(1, len(row.lanes))
        parts.append(f'<text x="{_LEFT - 6}" y="{_number(y + 8)}" class="label">{escape(row.name)}</text>')
        bands = []
        if row.submitted is not None:
            bands.append(("wait", row.submitted, row.began if row.began is not None else row.ended or whole))
        first = min((lane[0].begin for lane in row.lanes if lane), default=None)
        if row.began is not None:
            bands.append(("start", row.began, first if first is not None else row.ended or whole))
            last = max((lane[-1].end for lane in row.lanes if lane), default=None)
            if first is not None and last is not None:
                bands.append(("idle", first, max(last, row.ended or last)))
        for kind, begin, end in bands:
            if end > begin:
                parts.append(
                    f'<rect class="{kind}" x="{_number(x(begin))}" y="{_number(y)}" '
                    f'width="{_number(max(0.5, (end - begin) * scale))}" height="{height - 1}"/>'
                )
        for number, lane in enumerate(row.lanes):
            parts += _lane(lane, x, y + number * _LANE)
        y += height + _GAP
    axis = _axis(whole, x, y)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_number(y + 22)}" role="img" aria-labelledby="timeline-words" class="timeline">'
        f"{''.join(axis)}{''.join(parts)}</svg>"
    )


def cut_lanes(rows: Sequence[JobLanes]) -> int:
    """How many jobs are not drawn."""
    drawn = 0
    for number, row in enumerate(rows):
        drawn += max(1, len(row.lanes))
        if drawn > _MOST_LANES:
            return len(rows) - number
    return 0


def _lane(lane: Sequence[Bar], x, y: float) -> list[str]:  # type: ignore[no-untyped-def]
    paths: dict[str, list[str]] = {}
    for span in lane:
        width = max(0.4, x(span.end) - x(span.begin) - 0.3)
        shape = f"M{_number(x(span.begin))} {_number(y)}h{_number(width)}v{_LANE - 2}h-{_number(width)}z"
        paths.setdefault("good" if span.state == "succeeded" else "bad", []).append(shape)
    return [f'<path class="{kind}" d="{"".join(shapes)}"/>' for kind, shapes in paths.items()]


def _axis(whole: float, x, y: float) -> list[str]:  # type: ignore[no-untyped-def]
    step = nice_step(whole, 8)
    parts = []
    for tick in range(int(whole / step) + 1):
        at = x(tick * step)
        parts.append(f'<line class="grid" x1="{_number(at)}" x2="{_number(at)}" y1="0" y2="{_number(y)}"/>')
        parts.append(f'<text class="tick" x="{_number(at)}" y="{_number(y + 14)}">{clock(tick * step)}</text>')
    return parts


def histogram_svg(use: Use, name: str) -> str:
    """How often each value came up, and a line at what was asked for."""
    width, height, left, bottom = 480, 200, 40, 30
    values = use.values
    if not values:
        return ""
    most = max(values)
    # What was asked for is part of the picture, unless the values would become a line at its edge.
    shown_asked = use.asked is not None and use.asked <= 20 * max(most, 1e-9)
    top = max(most, use.asked or 0.0) if shown_asked else most
    step = nice_step(max(top, 1e-6), _BINS)
    bins = max(1, int(top / step) + 1)
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value / step))] += 1
    scale_x, scale_y = (width - left - 25) / (bins * step), (height - bottom - 20) / max(counts)
    parts = []
    for number, count in enumerate(counts):
        if count:
            x, tall = left + number * step * scale_x, max(1.0, count * scale_y)
            words = f"{number * step:g} to {(number + 1) * step:g} {use.unit}: {count}"
            parts.append(
                f'<rect class="good" x="{_number(x)}" y="{_number(height - bottom - tall)}" '
                f'width="{_number(max(0.5, step * scale_x - 1))}" height="{_number(tall)}">'
                f"<title>{escape(words)}</title></rect>"
            )
    ticks = nice_step(bins * step, 5)
    for number in range(int(bins * step / ticks) + 1):
        x = left + number * ticks * scale_x
        parts.append(f'<text class="tick" x="{_number(x)}" y="{height - 12}">{number * ticks:g}</text>')
    parts.append(f'<text class="label" x="{left - 6}" y="24">{max(counts)}</text>')
    parts.append(f'<text class="label" x="{left - 6}" y="{height - bottom}">0</text>')
    if use.asked is not None and shown_asked:
        x = left + use.asked * scale_x
        anchor = ' class="asked-label end"' if x > width / 2 else ' class="asked-label"'
        offset = -5 if x > width / 2 else 5
        parts.append(f'<line class="asked" x1="{_number(x)}" x2="{_number(x)}" y1="8" y2="{height - bottom}"/>')
        parts.append(f'<text{anchor} x="{_number(x + offset)}" y="16">asked for</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-words" class="histogram">'
        f"{''.join(parts)}</svg>"
    )
