# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the text of one sudoers file as sudo does: its includes, aliases, settings and rules, with their lines.

Only texts that visudo accepts are read rightly. A line that sudo would not accept becomes a statement of kind
``unread``. Standard library only. The functions take text and return values.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Statement(NamedTuple):
    """One statement of a sudoers file.

    Attributes:
        kind: include, includedir, alias, defaults, rule or unread.
        line: The number of its first line.
        value: What it says, by its kind: an :class:`Include`, :class:`Alias`, :class:`Defaults` or :class:`Rule`; None
            for unread.
        span: Where it lies in the text, with the end of its last line; of an include, where its path lies.
    """

    kind: str
    line: int
    value: Any
    span: tuple[int, int]


class Include(NamedTuple):
    """An included file or folder, as the statement writes it."""

    path: str


class Alias(NamedTuple):
    """The definition of an alias.

    Attributes:
        type: Host, Cmnd, User or Runas.
        name: Its name.
        members: What it stands for.
    """

    type: str
    name: str
    members: list[Member]


class Defaults(NamedTuple):
    """Settings, and whom they are for.

    Attributes:
        binding: "" for all, ":" for users, ">" for whom commands run as, "@" for hosts, "!" for commands.
        members: Whom they are for; empty for all.
        options: Of each its name, operator and value. The operator is "" (on), "!" (off), "=", "+=" or "-=".
    """

    binding: str
    members: list[Member]
    options: list[tuple[str, str, str | None]]


class Grant(NamedTuple):
    """One command of a rule.

    Attributes:
        hosts: Where it may run.
        run_as: As which users; None where the rule names none.
        groups: As which groups; None where the rule names none.
        tags: Names such as NOPASSWD.
        command: The command.
    """

    hosts: list[Member]
    run_as: list[Member] | None
    groups: list[Member] | None
    tags: list[str]
    command: Member


class Rule(NamedTuple):
    """A rule: who may run which commands."""

    users: list[Member]
    grants: list[Grant]


class Member(NamedTuple):
    """One entry of a list.

    Attributes:
        negated: Whether a ! stands before it.
        kind: all, alias, word, group, netgroup or command.
        text: What is written, without escapes and quotes; a group has its %.
    """

    negated: bool
    kind: str
    text: str


class _Token(NamedTuple):
    type: str
    text: str
    start: int
    end: int
    line: int


_WORD = r"(?:[^#>!=:,() \t\r\n\\\"]|\\[^\t\n])+"
_ID = r"#-?[0-9]+"
_PATH = r"/(?:\\[,:= \t#]|[^,:=\\ \t\r\n#])+"
_REGEX = r"\^(?:\\[#$]|[^#\r\n$])*\$"
_TAGS = (
    "NOPASSWD|PASSWD|NOEXEC|EXEC|INTERCEPT|NOINTERCEPT|SETENV|NOSETENV|LOG_OUTPUT|NOLOG_OUTPUT|LOG_INPUT|"
    "NOLOG_INPUT|MAIL|NOMAIL|FOLLOW|NOFOLLOW"
)
_BLANKS = ("blanks", r"[ \t]+")
_CONTINUED = ("blanks", r"\\[ \t]*\r?\n")
_NEWLINE = ("newline", r"\r?\n")
_COMMENT = ("newline", r"#(?:-[^\r\n0-9][^\n]*|[^\r\n0-9-][^\n]*)?\n?")
_NOT = ("not", r"!+")
_ANYWHERE = [
    ("tag", r"(?:%s)[ \t]*:" % _TAGS),
    ("netgroup", r"\+" + _WORD),
    ("group", r"%%:?(?:%s|%s)" % (_WORD, _ID)),
    ("address", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9]{1,2}))?"),
    ("address", r"[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:/(?:[0-9A-Fa-f:.]+))?"),
    ("all", r"ALL"),
]
_NAMES = [
    ("alias", r"[A-Z][A-Z0-9_]*"),
    ("digest", r"sha(?:224|256|384|512)"),
    ("edit", r"sudoedit"),
    ("path", _PATH),
    ("regex", _REGEX),
    ("string", r'"'),
    ("word", r"(?:%s|%s)" % (_ID, _WORD)),
    ("sign", r"[(),=:]"),
    _NOT,
    _NEWLINE,
    _BLANKS,
    _CONTINUED,
]
# Each state of the reading, and what may come in it. The longest match counts. Of two that are as long, the first does.
_STATE_TEXTS = {
    "start": [
        ("include", r"@include"),
        ("includedir", r"@includedir"),
        ("old_include", r"#include[ \t]+[^\n]*\n?"),
        ("old_includedir", r"#includedir[ \t]+[^\n]*\n?"),
        ("defaults", r"[ \t]*Defaults(?:[:@>!][ \t]*!*\"?(?:%s|%s))?" % (_ID, _WORD)),
        ("new_alias", r"[ \t]*(?:Host|Cmnd|Cmd|User|Runas)_Alias"),
        *_ANYWHERE,
        ("option", r"TIMEOUT|NOTBEFORE|NOTAFTER|ROLE|TYPE|APPARMOR_PROFILE"),
        ("path_option", r"CWD|CHROOT"),
        *_NAMES,
        _COMMENT,
    ],
    # Between "Defaults:" and the first blank: whom settings are for.
    "binding": [("sign", r"[ \t]*,[ \t]*"), ("end_binding", r"[ \t]+"), *_ANYWHERE, *_NAMES],
    "setting": [("setting", r"[a-z_]+"), _NOT, _NEWLINE, _BLANKS, _CONTINUED, _COMMENT],
    "value": [
        ("comma", r","),
        ("sign", r"=|\+=|-="),
        ("string", r'"'),
        ("word", r"(?:[^#!=, \t\r\n\\\"]|\\[^\r\n])(?:[^#=, \t\r\n\\\"]|\\[^\r\n])*"),
        _NOT,
        _NEWLINE,
        _BLANKS,
        _CONTINUED,
        _COMMENT,
    ],
    "included": [("included", r"[^\"\s](?:\\[ \t]|\S)*"), ("string", r'"'), _NEWLINE, _BLANKS, _CONTINUED],
    "path_value": [("word", _PATH), ("word", _WORD), ("string", r'"'), ("sign", r"="), _NEWLINE, _BLANKS, _CONTINUED],
    "hash": [("word", r"[0-9A-Za-z+/=]+"), ("sign", r":"), _NOT, _NEWLINE, _BLANKS, _CONTINUED],
}
_STATES = {state: [(kind, re.compile(text)) for kind, text in rules] for state, rules in _STATE_TEXTS.items()}
_AT_LINE_START = ("old_include", "old_includedir", "defaults", "new_alias")
_CONTINUATION = re.compile(_CONTINUED[1])
_BLANK_RUN = re.compile(_BLANKS[1])
_QUOTED_GLOB = re.compile(r"\\[*?\[\]!^]")
_QUOTED_SIGN = re.compile(r"\\[:\\,= \t#]")
_PLAIN = re.compile(r"[^#\\:, \t\r\n]+")
_MEMBER_ID = re.compile(r"(%?:?#)(-?[0-9]{1,20})")
_BEHIND_NUL = re.compile(r"\0[^\n]*")


class _Unread(Exception):
    """Sudo would not accept what stands here."""


class _Lexer:
    """Cuts a text into the tokens of sudo's grammar.

    Args:
        text: The whole file.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._state = "start"
        self._line_start = True

    def statements(self) -> Iterator[tuple[int, list[_Token] | None, tuple[int, int]]]:
        """For each statement its line, its tokens, and its span. The tokens are None where one is at fault."""
        while self._at < len(self._text):
            self._state, self._line_start = "start", True
            line, begin = self._line, self._at
            tokens: list[_Token] | None
            try:
                tokens = list(self._tokens())
            except _Unread:
                tokens = None
                self._skip_line()
            if tokens is None or tokens:
                yield line if not tokens else tokens[0].line, tokens, (begin, self._at)

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        end = len(self._text) if end < 0 else end + 1
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _tokens(self) -> Iterator[_Token]:
        """The tokens up to the end of the statement."""
        while self._at < len(self._text):
            kind, match = self._longest()
            start = self._at
            self._take(match.end())
            text = match.group()
            if kind == "newline":
                return
            if kind in ("blanks", "end_binding"):
                self._state = "setting" if kind == "end_binding" else self._state
                continue
            line = self._line
            if kind in ("old_include", "old_includedir"):
                # Only the word is taken. What follows is read by itself.
                kind = kind[4:]
                self._back(start + 1 + len(kind))
            elif kind == "defaults":
                after = text.lstrip(" \t")[len("Defaults") :]
                text = after[:1]
                self._back(self._at - len(after[1:].lstrip(" \t")))
            elif kind == "string":
                text = self._string()
                kind = {"%": "group", "+": "netgroup"}.get(text[:1], "word") if self._state in _OF_NAMES else "word"
            elif kind == "not":
                if len(text) % 2 == 0:
                    continue
                text = "!"
            elif kind in ("path", "regex", "edit") and self._state != "binding":
                directory = kind == "path" and text.endswith("/")
                text = text if kind == "regex" else _unescaped_command(text)
                if not directory:
                    text += self._arguments()
                kind = "command"
            elif kind in ("path", "regex", "edit"):
                text = text if kind == "regex" else _unescaped(text)  # here sudo reads it as it reads a word
                kind = "command"
            elif kind in ("word", "group", "netgroup", "included"):
                text = _unescaped(text)
            elif kind == "tag":
                text = text.rstrip(": \t")
            elif kind == "sign":
                text = text.strip(" \t")
            yield _Token(kind, text, start, self._at, line)
            self._state = self._next_state(kind, text)

    def _longest(self) -> tuple[str, re.Match[str]]:
        best: tuple[str, re.Match[str]] | None = None
        for kind, pattern in _STATES[self._state]:
            if kind in _AT_LINE_START and not self._line_start:
                continue
            match = pattern.match(self._text, self._at)
            if match and (best is None or match.end() > best[1].end()):
                best = kind, match
        if best is None:
            raise _Unread
        return best

    def _next_state(self, kind: str, text: str) -> str:
        state = self._state
        if kind in ("include", "includedir"):
            return "included"
        if kind == "defaults":
            return "binding"
        if kind == "setting":
            return "value"
        if state == "value":
            return "setting" if kind == "comma" else "value"
        if state in ("setting", "binding"):
            return state
        if kind == "path_option":
            return "path_value"
        if state == "path_value" and kind == "sign":
            return "path_value"
        if kind == "digest":
            return "hash"
        if state == "hash" and kind == "sign":
            return "hash"
        return "start"

    def _take(self, end: int) -> None:
        self._line += self._text.count("\n", self._at, end)
        self._line_start = end > 0 and self._text[end - 1 : end] == "\n"
        self._at = end

    def _back(self, position: int) -> None:
        self._line -= self._text.count("\n", position, self._at)
        self._at = position
        self._line_start = False

    def _took_continuation(self) -> bool:
        """Skip the end of a line that a backslash continues, and the blanks that follow. Says whether there was one."""
        continued = _CONTINUATION.match(self._text, self._at)
        if continued:
            self._take(continued.end())
            blanks = _BLANK_RUN.match(self._text, self._at)
            if blanks:
                self._take(blanks.end())
        return continued is not None

    def _string(self) -> str:
        """The text up to the closing quote."""
        found = []
        while True:
            if self._took_continuation():
                continue
            char = self._text[self._at : self._at + 1]
            if not char or char in "\r\n":
                raise _Unread
            self._take(self._at + 1)
            if char == '"':
                break
            if char == "\\" and self._text[self._at : self._at + 1] == '"':
                self._take(self._at + 1)
                char = '"'
            found.append(char)
        self._line_start = False
        if not found:
            raise _Unread
        return "".join(found)

    def _arguments(self) -> str:
        """The arguments of a command, up to the sign that ends them. A blank stands before each."""
        found = ""
        blank = False
        while self._at < len(self._text):
            match = _CONTINUATION.match(self._text, self._at) or _BLANK_RUN.match(self._text, self._at)
            if match:
                blank = True
                self._take(match.end())
                continue
            char = self._text[self._at]
            if char in "#:,\r\n":
                break
            if char == "^" and not found:
                found = " " + self._regex_arguments()
                break
            match = _QUOTED_GLOB.match(self._text, self._at) or _QUOTED_SIGN.match(self._text, self._at)
            text = match.group() if match else ""
            if match and _QUOTED_SIGN.match(text):
                text = text[1:]
            if not match:
                match = _PLAIN.match(self._text, self._at)
                if not match:
                    raise _Unread
                text = match.group()
            self._take(match.end())
            found += (" " if blank or not found else "") + text
            blank = False
        self._line_start = False
        return found

    def _regex_arguments(self) -> str:
        """A regular expression for all arguments, up to its closing $."""
        found = ""
        while True:
            if self._took_continuation():
                continue
            char = self._text[self._at : self._at + 1]
            if not char or char in "#\r\n":
                raise _Unread
            if char == "\\":
                char = self._text[self._at : self._at + 2]
            self._take(self._at + len(char))
            found += char
            if char == "$":
                return found


# States in which a text in quotes may be the name of a group.
_OF_NAMES = ("start", "binding")


def _unescaped(text: str) -> str:
    """A word without its backslashes. A backslash, x and two digits stand for a character."""
    return re.sub(
        r"\\(x[0-9A-Fa-f]{2}|.)",
        lambda match: chr(int(match.group(1)[1:], 16)) if len(match.group(1)) == 3 else match.group(1),
        text,
        flags=re.DOTALL,
    )


def _with_plain_id(text: str) -> str:
    """A member as sudo takes it: a number (``#5``, ``%#5``) has no zeros before it, and is wrapped at 32 bits."""
    match = _MEMBER_ID.fullmatch(text)
    if not match or not -(2**31) <= int(match.group(2)) < 2**32:
        return text
    number = int(match.group(2))
    return match.group(1) + str(number if number >= -1 else number + 2**32)


def _unescaped_command(text: str) -> str:
    return re.sub(r"\\([,:= \t#])", r"\1", text)


class _Parser:
    """Makes statements of the tokens of one.

    Args:
        tokens: The tokens, at least one.
        span: Where in the text they lie.
    """

    def __init__(self, tokens: list[_Token], span: tuple[int, int]) -> None:
        self._tokens = tokens
        self._span = span
        self._at = 0

    def _peek(self, *kinds: str) -> _Token | None:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token if token and (not kinds or token.type in kinds) else None

    def _sign(self, text: str) -> bool:
        """Take this sign if it comes next, and say whether it did."""
        token = self._peek("sign", "comma")
        if token and token.text == text:
            self._at += 1
            return True
        return False

    def _next(self, *kinds: str) -> _Token:
        token = self._peek(*kinds)
        if token is None:
            raise _Unread
        self._at += 1
        return token

    def _end(self) -> None:
        if self._peek():
            raise _Unread

    def statements(self) -> list[Statement]:
        """What the tokens say."""
        first = self._tokens[0]
        if first.type in ("include", "includedir"):
            self._at = 1
            path = self._next("included", "word", "group", "netgroup")
            self._end()
            return [Statement(first.type, first.line, Include(path.text), (path.start, path.end))]
        if first.type == "defaults":
            return [Statement("defaults", first.line, self._defaults(), self._span)]
        if first.type == "new_alias":
            return self._aliases()
        return [Statement("rule", first.line, self._rule(), self._span)]

    def _defaults(self) -> Defaults:
        binding = self._next("defaults").text
        members = self._members() if binding else []
        options: list[tuple[str, str, str | None]] = []
        while True:
            negated = bool(self._peek("not")) and bool(self._next("not"))
            name = self._next("setting").text
            operator = next((sign for sign in ("=", "+=", "-=") if not negated and self._sign(sign)), None)
            value = self._next("word").text if operator else None
            options.append((name, operator or ("!" if negated else ""), value))
            if not self._sign(","):
                break
        self._end()
        return Defaults(binding, members, options)

    def _aliases(self) -> list[Statement]:
        kind = self._next("new_alias").text.strip(" \t").partition("_")[0]
        found = []
        while True:
            name = self._next("alias")
            if not self._sign("="):
                raise _Unread
            alias = Alias("Cmnd" if kind == "Cmd" else kind, name.text, self._members())
            found.append(Statement("alias", self._tokens[0].line, alias, self._span))
            if not self._sign(":"):
                break
        self._end()
        return found

    def _members(self) -> list[Member]:
        found = []
        while True:
            while self._peek("digest"):
                self._digest()
            negated = bool(self._peek("not")) and bool(self._next("not"))
            found.append(self._member(negated))
            if not self._sign(","):
                return found

    def _digest(self) -> None:
        self._next("digest")
        self._sign(":")
        self._next("word")
        self._sign(",")

    def _member(self, negated: bool) -> Member:
        token = self._next("all", "alias", "word", "group", "netgroup", "command", "address")
        return Member(negated, "word" if token.type == "address" else token.type, _with_plain_id(token.text))

    def _rule(self) -> Rule:
        users = self._members()
        grants: list[Grant] = []
        while True:
            hosts = self._members()
            if not self._sign("="):
                raise _Unread
            grants.extend(self._grants(hosts))
            if not self._sign(":"):
                break
        self._end()
        return Rule(users, grants)

    def _grants(self, hosts: list[Member]) -> list[Grant]:
        found = []
        run_as: list[Member] | None = None
        groups: list[Member] | None = None
        tags: list[str] = []
        while True:
            if self._sign("("):
                run_as, groups = self._run_as()
                # Sudo inherits tags over a change of whom to run as, too.
            while self._peek("option", "path_option"):
                self._at += 1
                if not self._sign("="):
                    raise _Unread
                self._next("word")
            while self._peek("tag"):
                tags = _with_tag(tags, self._next("tag").text)
            while self._peek("digest"):
                self._digest()
            negated = bool(self._peek("not")) and bool(self._next("not"))
            found.append(Grant(hosts, run_as, groups, tags, self._member(negated)))
            if not self._sign(","):
                return found

    def _run_as(self) -> tuple[list[Member], list[Member] | None]:
        users: list[Member] = []
        groups: list[Member] | None = None
        if not self._peek_sign(":") and not self._peek_sign(")"):
            users = self._members()
        if self._sign(":"):
            groups = [] if self._peek_sign(")") else self._members()
        if not self._sign(")"):
            raise _Unread
        return users, groups

    def _peek_sign(self, text: str) -> bool:
        token = self._peek("sign")
        return token is not None and token.text == text


def _with_tag(tags: list[str], name: str) -> list[str]:
    """Tags with one more. It replaces its opposite."""
    opposite = name[2:] if name.startswith("NO") else "NO" + name
    return [tag for tag in tags if tag not in (name, opposite)] + [name]


def read(text: str) -> list[Statement]:
    """The statements of a sudoers file, in order."""
    found: list[Statement] = []
    # Sudo reads a line up to a NUL. Blanks in place of the rest keep all places as they are.
    text = _BEHIND_NUL.sub(lambda match: " " * len(match.group()), text)
    for line, tokens, span in _Lexer(text).statements():
        try:
            if tokens is None:
                raise _Unread
            found.extend(_Parser(tokens, span).statements())
        except _Unread:
            found.append(Statement("unread", line, None, span))
    return found


def aliases_of_json(text: str) -> set[str]:
    """The names of all aliases in what ``cvtsudoers -f json`` printed. There are none where that is no JSON."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return set()
    sections = document.items() if isinstance(document, dict) else ()
    return {name for kind, found in sections if kind.endswith("_Aliases") and isinstance(found, dict) for name in found}
