# SPDX-License-Identifier: GPL-3.0-or-later
import os

from fractal_slurm_server.owner import Owner, files, known, left


class TestOwner:
    def test_is_left_alone_while_its_process_lives_and_found_after_that(self, tmp_path):
        folder = tmp_path / "owners"
        owner = Owner(folder)
        owner.note(7)
        owner.note(12)
        owner.note(7)
        (path,) = files(folder)
        with left(path) as found:
            assert found is None
        os.close(owner._fd)  # as it is closed when a process dies, however it dies
        with left(path) as found:
            assert (found.owner, found.jobs, found.path) == (owner.name, (7, 12), path)
            with left(path) as second:
                assert second is None
            path.unlink()
        with left(path) as found:
            assert found is None

    def test_the_jobs_of_all_are_known_and_since_when_the_oldest_lives(self, tmp_path):
        folder = tmp_path / "owners"
        ended, lives, younger = Owner(folder, 100.0), Owner(folder, 200.0), Owner(folder, 300.0)
        for owner, job in ((ended, 7), (lives, 8), (younger, 9)):
            owner.note(job)
        os.close(ended._fd)
        assert known(folder) == (200.0, {7, 8, 9})
        ended_file = folder / f"{ended.name}.owner"
        ended_file.write_text("since=100.0\n7\n")
        with left(ended_file) as found:
            assert found.jobs == (7,)
            assert known(folder) == (200.0, {7, 8, 9})  # it is locked, but by whoever collects its jobs
        lives_file = folder / f"{lives.name}.owner"
        lives_file.write_text("8\n")  # as an earlier version left it
        assert known(folder) == (0.0, {7, 8, 9})

    def test_keeps_its_files_private(self, tmp_path):
        Owner(tmp_path / "a")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
        assert files(tmp_path / "a")[0].stat().st_mode & 0o777 == 0o600
