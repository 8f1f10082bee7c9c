# SPDX-License-Identifier: BSD-3-Clause
"""Read JSON and YAML from other people, within limits. Refuse what other readers would drop without a message."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ConfigFileError, FractalSlurmError, shown

# Reading YAML needs memory of a hundred times its size. Aliases and merge keys can make it larger still. So there are
# limits on the size of the text, on its size after aliases are expanded, and on the number of keys after merging.
_MOST_YAML, _MOST_EXPANDED, _MOST_MERGED = 1 << 25, 50_000_000, 1_000_000
# What to do where the system refuses to read a file.
_ADVICE = {
    errno.EACCES: ": this account needs the right to read it, and to enter the folders above it",
    errno.EISDIR: ": name a file in it",
}
# Most digits of an integer. Python refuses to write more than 4300 as JSON, and a hexadecimal number becomes longer.
_MOST_DIGITS = 1_000


def read_text(
    file: str | Path | BinaryIO,
    *,
    source: str,
    most: int,
    error: type[FractalSlurmError],
    optional: bool = False,
    hint: str = "",
) -> str | None:
    """Read a text file in UTF-8. Some editors write a byte order mark at the beginning: it is left out.

    Args:
        file: The path, or the open file.
        source: The name of the file in messages.
        most: The largest allowed size in bytes.
        error: The type of the error to raise.
        optional: Whether a missing or empty file is allowed.
        hint: What to say of a file that is missing, empty or can't be read: who named it, what to do.

    Returns:
        The text. None if the file does not exist and ``optional`` is true.

    Raises:
        FractalSlurmError: Of the type ``error``. The file can't be read, is empty or too large, or is not UTF-8.
    """
    ending = f"; {hint}" if hint else ""
    try:
        if isinstance(file, (str, Path)):
            with Path(file).open("rb") as stream:
                data = stream.read(most + 1)
        else:
            data = file.read(most + 1)
    except OSError as fault:
        if optional and isinstance(fault, FileNotFoundError):
            return None
        advice = _ADVICE.get(fault.errno or 0, "")
        raise error(f"{source}: can't be read: {fault.strerror}{advice}{ending}") from None
    except ValueError as fault:  # a NUL in the path
        raise error(f"{source!r}: can't be read: {fault}{ending}") from None
    if len(data) > most:
        raise error(f"{source}: can't be read: it is larger than {most} bytes")
    if not optional and not data.strip():
        raise error(f"{source}: it is empty{ending}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        what = "it is UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "it is not UTF-8"
        raise error(f"{source}: can't be read: {what}: save it as UTF-8") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the pairs of a JSON object. This is an ``object_pairs_hook`` for a JSON reader.

    Raises:
        FractalSlurmError: A key occurs twice. Other readers would drop one of the two without a message.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _value in pairs).items() if count > 1)
        raise FractalSlurmError(stands_twice(twice))
    return result


def stands_twice(key: object) -> str:
    """Return the message for a key that occurs twice in an object."""
    return f"the key {shown(key)} stands twice in one object: keep one"


def parse_json(text: str, *, source: str) -> Any:
    """Read JSON.

    Args:
        text: The text to read.
        source: Where the text is from, for messages.

    Raises:
        ConfigFileError: The text is not JSON, or a key occurs twice in an object.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        comma = _trailing_comma(text, error.pos)
        if comma is not None:
            line, column = text.count("\n", 0, comma) + 1, comma - text.rfind("\n", 0, comma)
            raise ConfigFileError(
                f"{source}:{line}:{column}: no JSON: a comma after the last entry: remove it"
            ) from None
        raise ConfigFileError(f"{source}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from None
    except FractalSlurmError as error:
        raise ConfigFileError(f"{source}: {error}") from None
    except ValueError as error:  # an integer of more than 4300 digits
        raise ConfigFileError(f"{source}: can't be read: {error}") from None
    except RecursionError:
        raise ConfigFileError(f"{source}: no config: nested too deeply") from None


def _trailing_comma(text: str, position: int) -> int | None:
    """Return the position of a comma after the last entry of an object or list, if it made the JSON reader stop."""
    before, after = text[:position].rstrip(), text[position:].lstrip()
    comma = len(before) - 1
    if not before.endswith(","):  # newer versions of Python stop at the comma itself
        comma, before, after = position, before + after[:1], after[1:].lstrip()
    is_one = before.endswith(",") and after[:1] in ("}", "]") and before[:-1].rstrip()[-1:] not in (*":{[,", "")
    return comma if is_one else None


def parse_yaml(
    text: str, *, source: str, error: type[FractalSlurmError] = ConfigFileError, otherwise: str = "no YAML"
) -> Any:
    """Read YAML. JSON can be read, too, because it is also YAML.

    Args:
        text: The text to read.
        source: Where the text is from, for messages.
        error: The type of the error to raise.
        otherwise: What messages say of a text that is not YAML.

    Raises:
        FractalSlurmError: Of the type ``error``. The text is not YAML, a key occurs twice in a mapping, a value
            contains itself, or aliases and merge keys make the document much larger than its text.
    """
    import yaml

    if len(text) > _MOST_YAML:
        raise error(f"{source}: is too large for YAML: at most {_MOST_YAML} characters are allowed; give it as JSON")
    try:
        # Exactly a str: libyaml takes a subclass, as ansible-core's strings are, for a stream.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(str.__str__(text))
        try:
            node = loader.get_single_node()
            _check_nodes(node, source, len(text))
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except FractalSlurmError as fault:
        raise error(fault.messages) from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(fault, "problem", None) or str(fault).partition("\n")[0]
        raise error(f"{source}{where}: {otherwise}: {problem}") from None
    except RecursionError:
        raise error(f"{source}: nested too deeply") from None
    except (ValueError, OverflowError) as fault:
        # YAML reads 2001-99-99 as a date, 0x_ as a number, and many digits as an integer.
        raise error(f"{source}: can't be read as YAML: {fault}; quote it if it is a string") from None
    except (LookupError, AttributeError, TypeError):
        # PyYAML does not check the values of explicit tags (!!bool x, !!int, !!timestamp x) before it reads them.
        raise error(f"{source}: can't be read as YAML: a value does not fit its tag (!!bool and the like)") from None


def _check_nodes(root: Any, source: str, length: int) -> None:
    """Refuse a YAML document that would lose data, or that would become much larger than its text.

    These are refused: a key that occurs twice in a mapping (one of the two would be lost without a message), a number
    that JSON can't hold, a node that contains itself, and aliases or merge keys that make gigabytes of a few lines.

    Args:
        root: The node of the document.
        source: Where the document is from, for messages.
        length: Number of characters of the text.

    Raises:
        FractalSlurmError: The document is refused.
    """
    import yaml

    def place(node: Any) -> str:
        return f"{source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    sizes: dict[int, int] = {}  # characters of each node with all nodes below it; -1 while they are being counted
    merged: dict[int, int] = {}  # pairs of each mapping, with the pairs that merge keys add
    pairs = 0
    left = [(root, False)]
    while left:
        node, is_done = left.pop()
        if not isinstance(node, yaml.CollectionNode):
            if isinstance(node, yaml.ScalarNode) and id(node) not in sizes:
                sizes[id(node)] = len(node.value) + 1
                if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
                    raise FractalSlurmError(
                        f"{place(node)}: can't be read as YAML: a number of more than {_MOST_DIGITS} digits; "
                        "quote it if it is a string"
                    )
            continue
        is_mapping = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if is_mapping else node.value
        if is_done:
            size = 2 + sum(sizes[id(child)] for child in children)
            if size > _MOST_EXPANDED + 2 * length:
                raise FractalSlurmError(
                    f"{place(node)}: aliases (*name) make more than {_MOST_EXPANDED} characters of it"
                )
            sizes[id(node)] = size
            if is_mapping:
                merged[id(node)] = sum(_merged(key, value, merged) for key, value in node.value)
                pairs += merged[id(node)]
                if pairs > _MOST_MERGED + length:
                    raise FractalSlurmError(f"{place(node)}: merge keys (<<) make more than {_MOST_MERGED} keys of it")
            continue
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise FractalSlurmError(f"{place(node)}: it contains itself, by an alias (*name)")
            continue
        sizes[id(node)] = -1
        left.append((node, True))
        left += ((child, False) for child in children)
        if is_mapping:
            keys = set()
            for key, _value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        raise FractalSlurmError(f"{place(key)}: {stands_twice(key.value)}")
                    keys.add((key.tag, key.value))


def _merged(key: Any, value: Any, merged: Mapping[int, int]) -> int:
    """Return how many pairs one pair of a mapping becomes: a merge key becomes several."""
    if key.tag != "tag:yaml.org,2002:merge":
        return 1
    sources = value.value if value.id == "sequence" else [value]
    return sum(merged.get(id(node), 1) for node in sources)
