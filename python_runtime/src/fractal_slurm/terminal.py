# SPDX-License-Identifier: BSD-3-Clause
"""Text as a terminal may get it: nothing in it that a terminal obeys, whoever wrote it.

It imports next to nothing, since a command may print a sentence and end.
"""

from __future__ import annotations

import json
import re


def plain(cell: object) -> str:
    """Return a text without characters that control a terminal; tasks may print anything."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in str(cell))


def indented(text: object, by: int = 4) -> str:
    """Indent all lines of a text but the first, so that no line of others passes for one of ours."""
    return plain(text).replace("\n", "\n" + " " * by)


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON in which nothing is left that a terminal obeys.

    NaN and infinity, which Python writes and reads though they are no JSON, become null.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = json.loads(json.dumps(value), parse_constant=lambda _name: None)
        text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Lone surrogates, which a task's out-JSON may hold, are written as JSON spells them, too.
    return re.sub("[^\n -~]", _spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]
