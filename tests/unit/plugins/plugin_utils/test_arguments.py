# SPDX-License-Identifier: GPL-3.0-or-later
"""Values in the forms that YAML, INI files, -e and environment variables give."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.fractal.slurm.plugins.plugin_utils.arguments import convert

SPEC = {
    "text": {"type": "str", "default": "x"},
    "bare": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "names": {"type": "list", "elements": "str", "default": []},
    "flag": {"type": "bool", "default": False},
    "count": {"type": "int", "default": 3},
    "map": {"type": "dict", "default": {}},
    "any": {"type": "raw"},
}


def faults(**given):
    return convert(given, SPEC, frozenset(("owner",)))[1]


class TestConvert:
    @pytest.mark.parametrize(
        ("name", "given", "expected"),
        [
            ("text", "a", "a"),
            ("owner", 1000, "1000"),
            ("names", "anna", ["anna"]),
            ("names", "anna,%lab", ["anna", "%lab"]),
            ("names", ["anna", "%domain users"], ["anna", "%domain users"]),
            ("names", [], []),
            ("flag", "no", False),
            ("flag", "True", True),
            ("count", "5", 5),
            ("map", '{"a": 1}', {"a": 1}),
            ("any", 5, 5),
        ],
    )
    def test_takes(self, name, given, expected):
        values, found = convert({name: given}, SPEC, frozenset(("owner",)))
        assert (values[name], found) == (expected, [])

    def test_adds_defaults(self):
        values, found = convert({}, SPEC)
        assert (values["text"], values["names"], values["count"], found) == ("x", [], 3, [])

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"text": True}, "text: found the truth value True (YAML reads what has no quotes so)"),
            ({"text": 1.5}, "found the number 1.5"),
            ({"text": 7}, "found the number 7"),
            ({"text": datetime.date(2026, 1, 1)}, "found the date 2026-01-01"),
            ({"text": ["a"]}, "found the list"),
            ({"text": {}}, "found the mapping"),
            ({"text": None}, "found nothing (null): leave the variable out"),
            ({"names": None}, "found nothing (null)"),
            ({"names": ""}, "found the string ''"),
            ({"names": "anna, ben"}, "found the string 'anna, ben'; a list is allowed, such as [anna, ben]"),
            ({"names": "anna,"}, "found the string"),
            ({"names": ["anna, ben"]}, "the entry 'anna, ben' is one string"),
            ({"names": [" anna"]}, "the entry ' anna' is one string"),
            ({"names": ["anna", False]}, "names: an entry: found the truth value False"),
            ({"names": ["anna", 1234]}, "found the number 1234"),
            ({"names": [None]}, "found nothing (null)"),
            ({"names": [["anna"]]}, "found the list"),
            ({"names": True}, "names: found the truth value True (YAML reads what has no quotes so)"),
            ({"names": 1234}, "names: found the number 1234"),
            ({"names": 1.5}, "names: found the number 1.5"),
            ({"names": b"anna"}, "names: found the bytes"),
            ({"names": [b"anna"]}, "names: an entry: found the bytes"),
            ({"text": b"anna"}, "text: found the bytes"),
            ({"names": ["anna", ""]}, "names: an entry is empty"),
            ({"names": '["anna"]'}, """a list is allowed. On the command line, give it as JSON: -e '{"names":"""),
            ({"names": " [anna]"}, "a list is allowed"),
            ({"names": '{"a": 1}'}, "a list is allowed"),
            ({"names": {"anna": 1}}, "names"),
            ({"flag": "maybe"}, "flag"),
            ({"flag": 2}, "flag"),
            ({"count": "many"}, "count"),
            ({"count": True}, "count: found True; a whole number"),
            ({"count": 2.5}, "count: found 2.5"),
            ({"map": "x"}, "map"),
            ({"map": ["x"]}, "map"),
        ],
    )
    def test_refuses(self, given, words):
        values, found = convert(given, SPEC, frozenset(("owner",)))
        assert len(found) == 1
        assert words in found[0]
        if "such as" not in words:
            assert set(values) <= set(SPEC)

    def test_null_is_nothing_where_there_is_no_default(self):
        assert faults(bare=None, any=None) == []
