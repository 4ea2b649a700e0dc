"""The command line: quick, tables for people, JSON for programs, errors with hints and without tracebacks."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from replkit.cli.main import COMMANDS, main


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("REPLKIT_CONTROL", raising=False)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words], prog_name="replkit")


def test_help_is_there_at_once():
    assert min(help_cpu_s() for _ in range(3)) < 0.45  # 0.15 on a quiet machine; a busy one is slower by itself


def help_cpu_s():
    """Processor time: what else runs on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "replkit", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_imports_nothing_heavy():
    code = "import sys; from replkit.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('pydantic', 'rich', 'msgspec', 'pluggy', 'bitarray', 'sqlite3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(run, name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage: replkit " + name in result.output


def test_plugins_lists_the_built_in_schemes(run):
    listing = json.loads(run("plugins", "--json").output)
    assert listing["schema_version"] == 1
    assert {"file", "memory", "tcp", "local"} <= {scheme["scheme"] for scheme in listing["schemes"]}
    assert "transport" in run("plugins").output


def test_no_daemon_is_an_error_with_a_hint_and_without_a_traceback(run, tmp_path):
    for words in (["status"], ["cut", "disk", "--control", tmp_path / "none"]):
        result = run(*words)
        assert result.exit_code == 1
        assert "Hint:" in result.output
        assert "Traceback" not in result.output


def test_config_check_tells_all_faults(run, tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('site = "A"\nlisten = "tcp://0.0.0.0:1"\n')
    result = run("config", "check", path)
    assert result.exit_code == 2
    assert "site: 'A' is no name" in result.output
    assert "listen: 0.0.0.0 is not loopback" in result.output
    listed = run("config", "check", path, "--json")
    assert listed.exit_code == 2
    assert {fault["path"] for fault in json.loads(listed.output)["faults"]} == {"site", "listen"}
    path.write_text('site = "a"\n')
    assert run("config", "check", path).exit_code == 0


def test_serve_refuses_a_bad_configuration(run, tmp_path):
    (tmp_path / "site.toml").write_text("volumes = 3")
    assert run("serve", "--config", tmp_path / "site.toml").exit_code == 2


def test_compare_says_which_blocks_differ(run, tmp_path):
    left, right = tmp_path / "left", tmp_path / "right"
    left.write_bytes(bytes(1 << 20))
    content = bytearray(1 << 20)
    right.write_bytes(content)
    same = json.loads(run("compare", left.as_uri(), right.as_uri(), "--json").output)
    assert (same["equal"], same["differing_count"]) == (True, 0)
    content[3 * 4096] = content[200 * 4096 + 17] = 1
    right.write_bytes(content)
    result = run("compare", left.as_uri(), right.as_uri(), "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["differing"] == [3, 200]
    assert "2 of 256 blocks differ: 3, 200" in run("compare", left.as_uri(), right.as_uri()).output


def test_volumes_of_different_sizes_cannot_be_compared(run, tmp_path):
    (tmp_path / "left").write_bytes(bytes(4096))
    (tmp_path / "right").write_bytes(bytes(8192))
    assert run("compare", (tmp_path / "left").as_uri(), (tmp_path / "right").as_uri()).exit_code == 2
