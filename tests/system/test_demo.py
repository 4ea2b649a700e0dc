"""The demo, as the README's first command runs it, only smaller."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replkit.cli.demo.sites import MARKER

pytestmark = [pytest.mark.needs_tool("mkfs.ext4", "e2fsck", "debugfs"), pytest.mark.timeout(280)]


def demo(folder, *more):
    return [sys.executable, "-m", "replkit", "demo", "--dir", str(folder), "--size", "192MiB", *map(str, more)]


def run(folder, *more):
    done = subprocess.run(demo(folder, *more), capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.requirement("U4", "C1", "X1", "S3")
def test_the_demo_replicates_a_file_system_and_can_be_run_again(tmp_path):
    output = run(tmp_path / "demo", "--rounds", 4)
    assert "a and b's view are equal in all 192.0 MiB" in output
    assert "the volumes are equal: 49152 blocks" in output
    assert "e2fsck -fn on b: replkit-demo:" in output
    assert "Try next" in output
    image = tmp_path / "mine.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    again = run(tmp_path / "demo", "--rounds", 3, "--image", image)
    assert "the volumes are equal: 4096 blocks" in again
    assert image.read_bytes() == bytes(16 << 20)
    logs = [log.read_text() for log in (tmp_path / "demo").glob("*/daemon.log")]
    assert [log for log in logs if "Traceback" in log] == []


def test_ctrl_c_ends_the_demo_and_its_daemons(tmp_path):
    interrupted = ""
    with subprocess.Popen(demo(tmp_path / "demo", "--rounds", 1000), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "rounds go on" in line:
                process.send_signal(signal.SIGINT)
            if "interrupted" in line:
                interrupted = line
    assert process.returncode == 130
    assert interrupted
    assert not list((tmp_path / "demo").glob("*/control.sock"))
    assert [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in command_line(p)] == []


def command_line(path):
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    done = subprocess.run(demo(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert not (tmp_path / MARKER).exists()
