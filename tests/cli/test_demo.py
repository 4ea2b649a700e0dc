"""The folder of the demo, and what it tells the user to type next."""

import shutil
import sys
from pathlib import Path

import pytest

from replkit.cli.demo.sites import MARKER, prepare_folder, write_sites
from replkit.cli.demo.story import own_command
from replkit.errors import AlreadyExistsError
from replkit.site.controlserver import ControlServer


@pytest.fixture(params=["short", "long"])
def folder(request, tmp_path):
    """That of a demo, also with a path that is too long for the sockets, which are elsewhere then."""
    place = tmp_path / ("d" if request.param == "short" else "d" * 120)
    prepare_folder(place)
    return place


def test_a_folder_in_which_a_daemon_runs_is_not_emptied(folder):
    a, _b = write_sites(folder, 1 << 20)
    server = ControlServer(a.control, lambda command, _: {"pid": 17} if command == "ping" else None)
    server.start()
    try:
        with pytest.raises(AlreadyExistsError, match="process 17"):
            prepare_folder(folder)
    finally:
        server.stop()
        assert a.config.exists()
    prepare_folder(folder)
    assert [path.name for path in folder.iterdir()] == [MARKER]
    assert not a.control.parent.exists(), "the folder of the sockets goes with it"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(AlreadyExistsError, match="no folder of a demo"):
        prepare_folder(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


@pytest.mark.requirement("U4")
def test_the_user_is_told_a_command_that_the_shell_finds(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    installed = programs / "replkit"
    shutil.copy(shutil.which("true"), installed)
    monkeypatch.setattr(sys, "argv", [str(installed)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert own_command() == str(installed)
    monkeypatch.setenv("PATH", str(programs))
    assert own_command() == "replkit"
    monkeypatch.setattr(sys, "argv", [str(Path("replkit") / "__main__.py")])
    assert own_command() == f"{sys.executable} -m replkit"
