# SPDX-License-Identifier: GPL-3.0-or-later
import os

from fractal_slurm_server.owner import Owner, files, left


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

    def test_keeps_its_files_private(self, tmp_path):
        Owner(tmp_path / "a")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
        assert files(tmp_path / "a")[0].stat().st_mode & 0o777 == 0o600
