# SPDX-License-Identifier: GPL-3.0-or-later
import io
import json
import sys
import time

import pytest
import yaml
from fractal_slurm.driver.prepare import resolve_spec
from fractal_slurm.errors import SpecError
from fractal_slurm.spec import build_spec, load_spec, parse_spec, to_line
from hypothesis import given
from hypothesis import strategies as st
from samples import config_file, json_objects, json_values, outcome

TASK = {"name": "Measure", "command": "measure --verbose"}


def document(**changes):
    """A unit of work with two parameter sets."""
    return {"task": TASK, "meta": {"cpus_per_task": 2}, "parameters": [{"well": "A01"}, {"well": "A02"}], **changes}


def faults(text):
    """The lines with which a text is refused."""
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="spec")
    assert all(line.startswith("spec:") and "\n" not in line for line in caught.value.messages)
    return [line.removeprefix("spec:").strip() for line in caught.value.messages]


class TestParseSpec:
    @pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump, lambda data: json.dumps(data, indent=4)])
    def test_reads_json_and_yaml_alike(self, write):
        spec = parse_spec(write(document(task={**TASK, "meta": {"mem": "1G"}})), source="spec")
        assert spec.task_name == "Measure"
        assert spec.command == ("measure", "--verbose")
        assert spec.task_meta == {"mem": "1G"}
        assert spec.meta == {"cpus_per_task": 2}
        assert [json.loads(line) for line in spec.parameters] == [{"well": "A01"}, {"well": "A02"}]

    def test_reads_a_flow_mapping_of_yaml(self):
        spec = parse_spec("{task: {name: a, command: b}, parameters: [{c: 1}]}", source="spec")
        assert list(spec.parameters) == ['{"c":1}']

    @pytest.mark.parametrize("text", ["\ufeff" + json.dumps(document()), " \n\t" + json.dumps(document()) + "\r\n"])
    def test_minds_neither_blanks_nor_a_byte_order_mark(self, text):
        assert len(parse_spec(text, source="spec").parameters) == 2

    @given(st.lists(json_objects, min_size=1, max_size=4), st.sampled_from([None, 1, "\t"]), st.booleans())
    def test_every_line_holds_the_object_it_came_from(self, parameters, indent, ascii_only):
        text = json.dumps(document(parameters=parameters), indent=indent, ensure_ascii=ascii_only)
        lines = parse_spec(text, source="spec").parameters
        assert [json.loads(line) for line in lines] == parameters
        for line in lines:
            assert "\n" not in line
            assert "\r" not in line
            if ascii_only:  # a file can't hold lone surrogates but as JSON spells them
                line.encode("utf-8")

    @given(st.lists(st.dictionaries(st.text("abc"), st.integers() | st.text("x\n\t é\u2028")), min_size=1, max_size=4))
    def test_yaml_lines_hold_the_objects_too(self, parameters):
        lines = parse_spec(yaml.safe_dump(document(parameters=parameters)), source="spec").parameters
        assert [json.loads(line) for line in lines] == parameters
        assert not any("\n" in line for line in lines)

    @pytest.mark.parametrize("text", ['{"a":\n"\\ud800"}', '{"a": "\\ud800"}', '{"a":\r"\\udfff"}'])
    def test_lone_surrogates_stay_spelled(self, text):
        (line,) = parse_spec(f'{{"task": {json.dumps(TASK)}, "parameters": [{text}]}}', source="spec").parameters
        assert json.loads(line.encode("utf-8")) == json.loads(text)

    def test_keeps_numbers_as_they_were_written(self):
        text = f'{{"task": {json.dumps(TASK)}, "parameters": [{{"a": 1.10, "b": 1e400, "c": {"9" * 4000}}}]}}'
        (line,) = parse_spec(text, source="spec").parameters
        assert line == text[text.index('{"a"') : -2]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "$: found nothing; an object is allowed"),
            ("[]", "$: found []; an object is allowed"),
            ("just words", "$: found 'just words'; an object is allowed"),
            ("3", "$: found 3; an object is allowed"),
        ],
    )
    def test_refuses_what_is_no_object(self, text, expected):
        assert faults(text) == [expected]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"task": }', "1:10: no JSON: Expecting value"),
            ('{"task": {},}', "1:13: no JSON: a key in double quotes is expected"),
            ('{"task": {}', "no JSON: ',' is expected"),
            ('{"task" 1}', "no JSON: ':' is expected"),
            ('{"task": {}} x', "1:14: no JSON: nothing may follow the object"),
            ('{"parameters": [{}', "no JSON: ',' is expected"),
            ('{"parameters": [{},]}', "1:20: no JSON"),
            ('{"a": 1, "a": 2}', "the key 'a' stands twice in one object: keep one"),
            ('{"task": {"name": "a", "name": "b"}}', "the key 'name' stands twice in one object: keep one"),
            ('{"a": "\0"}', "no JSON: Invalid control character"),
            ('{"a": ' + "9" * 5000 + "}", "digits"),
            ('{"parameters": [{"a": ' + "9" * 5000 + "}]}", "digits"),
            ('{"a": ' + "[" * 100_000, "nested too deeply"),
            ('{"parameters": ' + '[{"a":' * 100_000, "nested too deeply"),
            ("task: [", "neither JSON nor YAML"),
            ("a: 1\n---\nb: 1", "2:1: neither JSON nor YAML"),
            ("\ta: 1", "1:1: neither JSON nor YAML: found character"),
            ("a: \0", "control characters are not allowed"),
            ("a: 1\na: 2", "2:1: the key 'a' stands twice in one object: keep one"),
            ("task: {name: a, name: b}", "1:17: the key 'name' stands twice"),
            ("parameters: [{a: 1, a: 2}]", "the key 'a' stands twice"),
            ('{"parameters": [{"a": 1, "a": 2}]}', "the key 'a' stands twice in one object: keep one"),
            ('{"parameters": [{"a": {"b": 1, "b": 2}}]}', "the key 'b' stands twice in one object: keep one"),
            ("a: 2001-99-99", "can't be read as YAML: month must be in 1..12"),
            ("a: 0x_", "can't be read as YAML"),
            ("a: 0b_", "can't be read as YAML"),
            ("a: " + "9" * 5000, "can't be read as YAML"),
            ("a: " + "[" * 5000, "neither JSON nor YAML: exceeded maximum nesting depth"),
            ("? {a: 1}\n: b", "found unhashable key"),
            ("!!python/object/apply:os.system [id]", "could not determine a constructor for the tag"),
            ("a: *b", "found undefined alias"),
        ],
    )
    def test_says_in_one_line_why_a_text_cannot_be_read(self, text, words):
        (line,) = faults(text)
        assert words in line

    def test_takes_overriding_of_merged_keys_for_what_it_is(self):
        text = "base: &b {name: a, command: c}\ntask: &t {<<: *b, name: d}\nother: {<<: *t, name: e}\nparameters: [{}]"
        with pytest.raises(SpecError) as caught:
            parse_spec(text, source="spec")
        assert [line.split(": ")[1] for line in caught.value.messages] == ["$.base", "$.other"]

    @given(st.text(max_size=40) | st.text("{}[]\",:&*!?|->%@`#'ab\n\t\\01", max_size=40))
    def test_reads_any_text_or_refuses_it_in_lines(self, text):
        _spec, lines = outcome(parse_spec, text, source="spec")
        assert all(line.startswith("spec:") and "\n" not in line for line in lines)

    @given(json_values)
    def test_judges_any_document(self, value):
        for text in (json.dumps(value), json.dumps({"task": value, "meta": value, "parameters": value})):
            _spec, lines = outcome(parse_spec, text, source="spec")
            assert all(line.startswith("spec:") and "\n" not in line for line in lines)


class TestBuildSpec:
    def test_names_every_fault_at_once(self):
        lines = faults(
            json.dumps(
                {
                    "task": {"name": "a\u0000b", "comand": "x", "meta": []},
                    "meta": "x",
                    "parameters": [{}, 1, None, {}, "x"],
                    "zzz": 1,
                    "a\nb": 2,
                }
            )
        )
        assert lines == [
            r"$.task.name: found 'a\x00b'; control characters are not allowed",
            "$.task.comand: unknown key; did you mean 'command'?",
            "$.task.meta: found []; an object is allowed",
            "$.task.command: missing; it is required",
            "$.meta: found 'x'; an object is allowed",
            "$.parameters[1]: found 1; an object is allowed",
            "$.parameters[2]: found nothing; an object is allowed",
            "$.parameters[4]: found 'x'; an object is allowed",
            "$.zzz: unknown key; known keys are task, meta, parameters",
            r'$["a\nb"]: unknown key; known keys are task, meta, parameters',
        ]

    def test_says_what_is_missing(self):
        assert faults("{}") == ["$.task: missing; it is required", "$.parameters: missing; it is required"]
        assert faults('{"task": null, "parameters": null}') == [
            "$.task: found nothing; an object is allowed",
            "$.parameters: found nothing; a list of objects is allowed",
        ]

    @pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
    def test_asks_for_at_least_one_parameter_set(self, write):
        assert faults(write(document(parameters=[]))) == [
            "$.parameters: is empty: give one parameter set for each task"
        ]

    @pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
    def test_names_the_first_twenty_of_many_wrong_parameter_sets(self, write):
        lines = faults(write(document(parameters=[1] * 1_000)))
        assert len(lines) == 21
        assert lines[19] == "$.parameters[19]: found 1; an object is allowed"
        assert lines[20].startswith("$.parameters: 980 more")

    @pytest.mark.parametrize("key", ["name", "command"])
    @pytest.mark.parametrize("value", [None, "", "  ", 3, [], True])
    def test_refuses_a_task_without_name_or_command(self, key, value):
        (line,) = faults(json.dumps(document(task={**TASK, key: value})))
        assert line.startswith(f"$.task.{key}: found ")

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("a 'b", "can't be split into words"),
            ("a\nb", "control character"),
            ("a\ud800", "control character"),
            ("''", "is empty"),
        ],
    )
    def test_refuses_a_command_that_is_none(self, command, words):
        (line,) = faults(json.dumps(document(task={**TASK, "command": command})))
        assert line.startswith("$.task.command: ")
        assert words in line

    def test_takes_null_for_a_meta_that_is_not_there(self):
        spec = build_spec(document(task={**TASK, "meta": None}, meta=None), source="spec")
        assert (spec.task_meta, spec.meta) == ({}, {})

    @pytest.mark.parametrize("value", [float, {1}, b"x", object()])
    def test_refuses_parameters_that_json_cannot_write(self, value):
        with pytest.raises(SpecError, match=r"\$\.parameters\[0\]: can't be written as JSON"):
            build_spec(document(parameters=[{"a": value}]), source="spec")

    def test_refuses_parameters_that_hold_themselves(self):
        loop = {}
        loop["loop"] = loop
        deep = {}
        for _number in range(100_000):
            deep = {"a": deep}
        with pytest.raises(SpecError) as caught:
            build_spec(document(parameters=[loop, deep]), source="spec")
        assert caught.value.messages == [
            "spec: $.parameters[0]: can't be written as JSON: Circular reference detected",
            "spec: $.parameters[1]: is nested too deeply: at most 500 levels are allowed",
        ]


class TestToLine:
    @given(json_objects)
    def test_is_one_line_that_holds_the_object(self, parameters):
        line = to_line(parameters)
        assert line.splitlines() == [line] or "\u2028" in line or "\u2029" in line or "\x85" in line
        assert "\n" not in line
        assert json.loads(line.encode("utf-8")) == parameters


class TestLoadSpec:
    def test_reads_a_file(self, tmp_path):
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(document()), encoding="utf-8-sig")
        assert load_spec(str(path)).task_name == "Measure"

    def test_reads_standard_input(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(document()).encode())))
        assert load_spec("-").task_name == "Measure"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{")))
        with pytest.raises(SpecError, match="standard input:1:2: no JSON"):
            load_spec("-")

    def test_says_that_a_file_cannot_be_read(self, tmp_path):
        with pytest.raises(SpecError, match="can't be read: No such file or directory"):
            load_spec(str(tmp_path / "nowhere"))
        with pytest.raises(SpecError, match="can't be read: Is a directory"):
            load_spec(str(tmp_path))
        path = tmp_path / "latin"
        path.write_bytes(b"\xe4")
        with pytest.raises(SpecError, match="it is not UTF-8"):
            load_spec(str(path))


DEPTHS = (400, 499, 501, 700, 950, 970, 983, 990, 1_100, 100_000)
HEAD = "task: {name: a, command: b}\n"


class TestTheUnreasonable:
    """A sentence, at once and in little memory: such a text is no accident."""

    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize(
        "text",
        [
            '{"task": {"name": "a", "command": "b"}, "parameters": [{"a": DEEP}]}',
            '{"task": {"name": "a", "command": "b"}, "parameters": [DEEP]}',
            '{"task": {"name": "a", "command": "b"}, "parameters": DEEP}',
            '{"task": {"name": "a", "command": "b"}, "meta": {"mem": DEEP}, "parameters": [{}]}',
            '{"task": {"name": "a", "command": "b", "meta": DEEP}, "parameters": [{}]}',
            '{"task": {"name": DEEP, "command": "b"}, "parameters": [{}]}',
            '{"x": DEEP}',
            HEAD + "parameters: [{a: DEEP}]",
            HEAD + "parameters: [DEEP]",
            HEAD + "parameters: [{}]\nmeta: {mem: DEEP}",
        ],
    )
    def test_depth(self, text, depth):
        for deep in ("[" * depth + "]" * depth, '{"a": ' * depth + "1" + "}" * depth):
            spec, messages = outcome(parse_spec, text.replace("DEEP", deep), source="s")
            assert messages or depth < 500
            assert all(len(message) < 500 for message in messages)
            if spec is not None:
                outcome(resolve_spec, config_file(), spec)

    @pytest.mark.parametrize(
        "value",
        [
            "!!bool x", "!!bool", "!!int", "!!int x", "!!float", "!!float x", "!!timestamp x", "!!timestamp",
            "!!null x", "!!binary é", "!!set x", "!!omap x", "!!pairs [x]", "!!map x", "!!seq x", "!!str [x]",
            "!!merge x", "!!python/x", "!x y", "0x" + "f" * 4_000, "9" * 4_000, "1:" * 2_000 + "1", "0b" + "1" * 4_000,
            ".inf", ".nan", "2001-99-99",
            "=", "<<", "~", "? [a]", "{? {a: b} : c}",
        ],
    )  # fmt: skip
    def test_values_of_yaml(self, value):
        for text in (
            value,
            f"{HEAD}parameters: [{{}}]\nmeta: {{a: {value}}}",
            f"{HEAD}parameters: [{{}}]\nmeta: {{mem: {value}}}",
            f"{HEAD}parameters: [{{}}]\nmeta: {{? {value} : b}}",
            f"{HEAD}parameters: [{value}]",
            f"{HEAD}parameters: [{{a: {value}}}]",
            f"{HEAD}parameters: [{{? {value} : b}}]",
            f"? {value}\n: b\n",
        ):
            spec, messages = outcome(parse_spec, text, source="s")
            assert all(message.startswith("s:") and len(message) < 500 for message in messages)
            if spec is not None:
                outcome(resolve_spec, config_file(), spec)

    def nested(self, first, form, levels):
        lines = [f"a0: &a0 {first}", *(f"a{n}: &a{n} {form.replace('*', f'*a{n - 1}')}" for n in range(1, levels))]
        return "".join(f"  {line}\n" for line in lines)

    @pytest.mark.parametrize(
        ("first", "form", "levels"),
        [
            ("[x, x, x, x, x, x, x, x, x]", "[*,*,*,*,*,*,*,*,*]", 9),
            ("x", "{a: *, b: *}", 40),
            ("{a: 1}", "{<<: [*,*,*,*,*,*,*,*,*]}", 9),
            ("{a: 1}", "{<<: [*,*]}", 2_000),
            ("{a: 1}", "{b: {<<: [*,*]}, <<: [*,*]}", 100),
        ],
    )
    def test_bombs_of_aliases_and_merge_keys(self, first, form, levels):
        began = time.monotonic()
        for tail in ("parameters: [{}]\n", f"parameters: [*a{levels - 1}]\n"):
            _spec, messages = outcome(parse_spec, f"{HEAD}meta:\n{self.nested(first, form, levels)}{tail}", source="s")
            assert len(messages) == 1
            assert "make more than" in messages[0]
        assert time.monotonic() - began < 20

    def test_many_merges_of_a_wide_mapping(self):
        wide = "{" + ", ".join(f"k{n}: 1" for n in range(2_000)) + "}"
        text = f"{HEAD}meta:\n  w: &w {wide}\n  l:\n" + "  - {<<: *w}\n" * 2_000 + "parameters: [{}]\n"
        _spec, messages = outcome(parse_spec, text, source="s")
        assert "merge keys (<<) make more than" in messages[0]

    def test_what_contains_itself(self):
        _spec, messages = outcome(parse_spec, f"{HEAD}parameters: [&a {{b: *a}}]", source="s")
        assert messages == ["s:2:14: it contains itself, by an alias (*name)"]

    def test_aliases_and_merge_keys_as_people_use_them(self):
        text = f"{HEAD}meta: {{}}\nparameters:\n- &a {{x: &x [1, 2], y: *x}}\n- {{<<: *a, z: 1}}\n- *a\n"
        spec = parse_spec(text, source="s")
        assert [json.loads(line) for line in spec.parameters] == [
            {"x": [1, 2], "y": [1, 2]},
            {"x": [1, 2], "y": [1, 2], "z": 1},
            {"x": [1, 2], "y": [1, 2]},
        ]

    def test_a_path_with_a_nul(self):
        _spec, messages = outcome(load_spec, "a\0b")
        assert messages == ["'a\\x00b': can't be read: embedded null byte"]
