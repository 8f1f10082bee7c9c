# SPDX-License-Identifier: BSD-3-Clause
"""The plate's images have a known answer, and the measurement finds it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import make_plate
import measure_well
import plate_page

SOME_WELLS = ("A01", "B06", "E05", "H12")


def image(*rows: str) -> measure_well.Image:
    """Make an image from rows of '.' (dark, level 10) and '#' (bright, level 100)."""
    pixels = "".join(rows).translate({ord("."): "\x0a", ord("#"): "\x64"}).encode("latin-1")
    return measure_well.Image(len(rows[0]), len(rows), pixels)


def run_task(arguments: str, folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run measure_well.py as Fractal would, with the text of an args-JSON file."""
    args_json, out_json = folder / "args.json", folder / "out.json"
    args_json.write_text(arguments)
    completed = subprocess.run(
        [sys.executable, HERE / "measure_well.py", "--args-json", args_json, "--out-json", out_json],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
        check=False,
    )
    return completed, out_json


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Images of a few wells; what layout.json says of each, by well."""
    folder = tmp_path_factory.mktemp("plate")
    make_plate.make_plate(folder, "test", SOME_WELLS)
    return {entry["well"]: entry for entry in json.loads((folder / "layout.json").read_text())}


class TestMakePlate:
    def test_has_96_wells_each_once(self) -> None:
        assert len(set(make_plate.WELLS)) == len(make_plate.WELLS) == 96

    def test_the_same_names_give_the_same_bytes(self) -> None:
        assert make_plate.make_well("test", "C05") == make_plate.make_well("test", "C05")

    def test_other_wells_and_plates_give_other_bytes(self) -> None:
        contents = {make_plate.make_well(*names)[0] for names in (("a", "C05"), ("a", "C06"), ("b", "C05"))}
        assert len(contents) == 3

    @pytest.mark.parametrize("row", make_plate.ROWS)
    def test_survival_falls_with_the_dose_between_the_controls(self, row: str) -> None:
        survival = [make_plate.condition(f"{row}{column:02d}").survival for column in make_plate.COLUMNS]
        assert survival == sorted(survival, reverse=True)
        assert (survival[0], survival[-1]) == (1.0, 0.0)

    def test_leaves_no_partial_files(self, tmp_path: Path) -> None:
        make_plate.make_plate(tmp_path, "test", ("A01",))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["A01.pgm", "layout.json"]

    def test_a_folder_that_can_not_be_made_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        completed = subprocess.run(
            [sys.executable, HERE / "make_plate.py", tmp_path / "file"], capture_output=True, text=True, check=False
        )
        assert completed.returncode == 1
        assert completed.stderr == f"make_plate: {tmp_path}/file: can't be written: File exists.\n"


class TestMeasure:
    @pytest.mark.parametrize("well", SOME_WELLS)
    def test_finds_every_planted_spot(self, layout: dict[str, dict[str, Any]], well: str) -> None:
        result = measure_well.measure(well, layout[well]["image"], 6.0, None)
        assert result["spots_by_site"] == layout[well]["planted_spots"]
        assert result["preview"] is None

    def test_finds_the_background_and_larger_brighter_spots_in_the_killed_control(
        self, layout: dict[str, dict[str, Any]]
    ) -> None:
        untreated, killed = (measure_well.measure(well, layout[well]["image"], 6.0, None) for well in ("A01", "H12"))
        assert untreated["background"] == killed["background"] == 20
        assert killed["mean_area_px"] > untreated["mean_area_px"]
        assert killed["mean_intensity"] > untreated["mean_intensity"]


class TestFindSpots:
    def test_joins_what_touches_by_edge_or_corner(self) -> None:
        spots = measure_well.find_spots(image("##......", "..##....", "####....", ".....###", "......##"), 50)
        assert sorted(spots) == [(5, 500), (8, 800)]

    def test_joins_the_arms_of_a_u_that_meet_below(self) -> None:
        assert measure_well.find_spots(image("#...#", "#...#", "#####"), 50) == [(9, 900)]

    def test_does_not_join_the_end_of_a_row_with_the_start_of_the_next(self) -> None:
        spots = measure_well.find_spots(image("....#####", ".........", "#####....", "........."), 50)
        assert spots == [(5, 500), (5, 500)]
        assert len(measure_well.find_spots(image("....#####", "#####...."), 50)) == 1

    def test_leaves_out_what_is_smaller_than_a_spot(self) -> None:
        assert measure_well.find_spots(image("####....", "........", "...#####"), 50) == [(5, 500)]

    def test_a_dark_image_has_none(self) -> None:
        assert measure_well.find_spots(image("....", "...."), 50) == []


class TestParsePgm:
    def test_reads_a_sequence_of_images_with_comments(self) -> None:
        content = b"P5\n# a comment 1 2\n2 1\n255\nab" + b"P5 1 2 200\n\n#"
        assert measure_well.parse_pgm(content, "x") == [(2, 1, b"ab"), (1, 2, b"\n#")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "x: the file is empty."),
            (b"\x89PNG", "x: image 1 does not begin with the header of a binary PGM file (P5)."),
            (b"P5 1 1 255\naP6", "x: image 2 does not begin with the header of a binary PGM file (P5)."),
            (b"P5 4 4 255\nabc", "the file ends after 3. Was it copied whole?"),
            (b"P5 4 4 65535\n", "needed is an image that is not empty and has grey levels up to 255 at most."),
            (b"P5 0 4 255\n", "image 1 is 0 x 4"),
        ],
    )
    def test_says_what_is_wrong(self, content: bytes, message: str) -> None:
        with pytest.raises(measure_well.TaskError) as caught:
            measure_well.parse_pgm(content, "x")
        assert message in str(caught.value)


class TestTask:
    def test_writes_its_result_and_a_preview_into_the_users_own_folder(
        self, layout: dict[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        arguments = json.dumps({"well": "B06", "image": layout["B06"]["image"]})
        completed, out_json = run_task(arguments, tmp_path, PLATE_PREVIEW_DIR=str(tmp_path / "a" / "b"))
        assert (completed.returncode, completed.stderr) == (0, "")
        result = json.loads(out_json.read_text())
        assert result["spots"] == sum(layout["B06"]["planted_spots"])
        assert result["measured_by"] == pwd.getpwuid(os.geteuid()).pw_name
        assert result["preview"] == str(tmp_path / "a" / "b" / "B06.png")
        assert Path(result["preview"]).read_bytes().startswith(b"\x89PNG\r\n")

    def test_takes_its_threshold_from_the_environment(self, layout: dict[str, dict[str, Any]], tmp_path: Path) -> None:
        arguments = json.dumps({"well": "B06", "image": layout["B06"]["image"]})
        _completed, out_json = run_task(arguments, tmp_path, PLATE_THRESHOLD_SIGMAS="10")
        assert json.loads(out_json.read_text())["threshold"] > 45

    @pytest.mark.parametrize(
        ("arguments", "environment", "message"),
        [
            ("{", {}, "args.json: the arguments are no JSON: "),
            ("[]", {}, "the arguments are []; needed is an object with well and image."),
            ('{"well": "A01"}', {}, "image is None; needed is a string."),
            ('{"well": "../x", "image": "x"}', {}, "well is '../x'; needed is a row and a column, A01 to P24."),
            (
                '{"well": "A01", "image": "/no/A01.pgm"}',
                {},
                "measure_well: /no/A01.pgm: the image of well A01 can't be read: No such file or directory.\n",
            ),
            (
                '{"well": "A01", "image": "/no/A01.pgm"}',
                {"PLATE_THRESHOLD_SIGMAS": "high"},
                "PLATE_THRESHOLD_SIGMAS is 'high'; needed is a number above 0",
            ),
        ],
    )
    def test_what_is_wrong_is_one_sentence_and_exit_1(
        self, arguments: str, environment: dict[str, str], message: str, tmp_path: Path
    ) -> None:
        completed, out_json = run_task(arguments, tmp_path, **environment)
        assert completed.returncode == 1
        assert message in completed.stderr
        assert completed.stderr.count("\n") == 1
        assert not out_json.exists()


class TestPage:
    @staticmethod
    def well(name: str, **changes: Any) -> plate_page.Well:
        values: dict[str, Any] = {
            "name": name,
            "condition": "untreated",
            "user": "anna",
            "job": "7",
            "host": "n1",
            "seconds": 0.1,
            "spots": 12,
            "mean_area_px": 60.0,
            "mean_intensity": 70.0,
            "preview_png": b"png",
            "error": None,
        }
        return plate_page.Well(**{**values, **changes})

    def test_shows_every_well_with_its_value_and_who_measured_it(self) -> None:
        runs = [plate_page.Run("anna", ["7"], 1, 1, 1.0, 4), plate_page.Run("ben", ["8"], 1, 1, 1.0, 4)]
        page = plate_page.build_page("p", [self.well("A01"), self.well("B12", user="ben", spots=90)], runs)
        assert "<title>A01, untreated: 12 spots, measured by anna</title>" in page
        assert "<title>B12, untreated: 90 spots, measured by ben</title>" in page
        assert "2 of 2 wells" in page

    def test_says_that_the_image_shows_one_site_of_those_that_are_counted(self) -> None:
        runs = [plate_page.Run("anna", ["7"], 1, 1, 1.0, 4)]
        with_image = plate_page.build_page("p", [self.well("A01", preview_png=b"png")], runs)
        without = plate_page.build_page("p", [self.well("A01", preview_png=None)], runs)
        assert ["first of the well" in page for page in (with_image, without)] == [True, False]

    def test_shows_a_failed_well_with_its_reason(self) -> None:
        failed = self.well("A01", spots=None, mean_area_px=None, mean_intensity=None, error="exit code 1")
        page = plate_page.build_page("p", [failed], [plate_page.Run("anna", ["7"], 1, 0, 1.0, 4)])
        assert "<title>A01, not measured: exit code 1</title>" in page
        assert "0 of 1 wells" in page

    def test_text_from_tasks_can_not_end_an_element(self) -> None:
        failed = self.well("A01", spots=None, error="</script><b>x")
        page = plate_page.build_page("<i>", [failed], [plate_page.Run("anna", ["7"], 1, 0, 1.0, 4)])
        assert "</script><b>" not in page
        assert "<i>" not in page

    def test_refers_to_nothing_outside_itself(self) -> None:
        page = plate_page.build_page("p", [self.well("A01")], [plate_page.Run("anna", ["7"], 1, 1, 1.0, 4)])
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")

    @pytest.mark.parametrize(("fraction", "expected"), [(0.0, "#440154"), (1.0, "#fde725"), (2.0, "#fde725")])
    def test_colours_span_the_map(self, fraction: float, expected: str) -> None:
        assert plate_page.colour(fraction) == expected
