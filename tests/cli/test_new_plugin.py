"""``replkit plugins new``: the project that it writes works as it is, and it never writes over anything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from replkit.cli.main import main
from replkit.cli.newplugin.writing import KINDS

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> SimpleNamespace:
    return CliRunner().invoke(main, ["plugins", *words])


def write(folder: Path, kind: str, name: str = "acme-store") -> Path:
    project = folder / "project"
    result = run("new", name, "--kind", kind, "--dir", str(project))
    assert result.exit_code == 0, result.output
    return project


def as_if_installed(project: Path, folder: Path) -> dict[str, str]:
    """An environment in which the project is found like an editable installation: source, and its entry points."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    points = "".join(f"{name} = {place}\n" for name, place in about["entry-points"]["replkit"].items())
    (metadata / "entry_points.txt").write_text(f"[replkit]\n{points}")
    return {**os.environ, "PYTHONPATH": f"{project / 'src'}{os.pathsep}{folder}"}


def run_tests(python: str | Path, project: Path, env: dict[str, str], *words: str) -> str:
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return done.stdout


QUICK = {
    "volume": "after_reopening or discarded or declared or stored or changed_in or read_only or faults and 1",
    "save-volume": "concatenation or deleted or swapper or prefix or rotten or faults and 1",
    "transport": "order or refuses_both or wakes_a_receive or no_message or faults and 1",
}
"""A few seconds of each suite; the slow test runs all."""


@pytest.mark.requirement("U1", "U4")
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_written_passes_its_tests(tmp_path: Path, kind: str) -> None:
    project = write(tmp_path, kind)
    env = as_if_installed(project, tmp_path)
    output = run_tests(sys.executable, project, env, "-k", QUICK[kind])
    assert int(output.strip().splitlines()[-1].split(" passed")[0].split()[-1]) >= 6


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with replkit and its kit, installed as a user would install them."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, with_pip=True)
    install(place, f"{ROOT}[testing]")
    return place / "bin"


def install(place: Path, *words: str) -> None:
    command = [place / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.requirement("U4", "X3")
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_written_installs_by_pip_and_passes_all_its_tests(environment: Path, tmp_path: Path, kind: str) -> None:
    """By the commands that the README of the project gives."""
    project = write(tmp_path, kind, f"acme-{kind}")
    install(environment.parent, "-e", str(project))
    run_tests(environment / "python", project, dict(os.environ))
    listing = subprocess.run([environment / "replkit", "plugins"], capture_output=True, text=True, check=True).stdout
    assert f"acme-{kind}" in listing


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_mark_of_a_template_is_left_in_what_is_written(tmp_path: Path, kind: str) -> None:
    project = write(tmp_path, kind)
    texts = {path.name: path.read_text() for path in project.rglob("*") if path.is_file()}
    assert [name for name, text in texts.items() if re.search(r"@[a-zA-Z]+@", text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_written_keeps_to_our_own_style(tmp_path: Path, kind: str) -> None:
    """Slow only so that the README's command need not install ruff: CI has it by then."""
    project = write(tmp_path, kind)
    rules = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["ruff", "check", *rules, "--ignore", "S101"], ["ruff", "format", "--check", *rules]):
        done = subprocess.run(
            [sys.executable, "-m", *command, str(project)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    project = write(tmp_path, "volume")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    result = run("new", "other", "--dir", str(project))
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert "--dir" in result.output
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["", "Acme", "9lives", "a_b", "a--b", "-a", "a-", "a/b", "..", "a" * 41, "é"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    result = run("new", "--dir", str(tmp_path / "project"), "--", name)
    assert result.exit_code == 2
    assert "is no name of a plugin" in result.output
    assert not (tmp_path / "project").exists()


def test_a_scheme_that_is_taken_is_refused_for_what_it_is_taken_for(tmp_path: Path) -> None:
    result = run("new", "file", "--dir", str(tmp_path / "project"))
    assert result.exit_code == 2
    assert "opens volumes at file: already" in result.output
    assert run("new", "file", "--kind", "transport", "--dir", str(tmp_path / "project")).exit_code == 0


def test_a_folder_in_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = run("new", "acme", "--dir", str(tmp_path / "nowhere" / "project"))
    assert result.exit_code == 2
    assert "is no folder" in result.output


def test_nothing_is_left_of_a_project_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replkit.cli.newplugin import writing

    def fails(template: object, words: object) -> str:
        if "conftest" in str(template) or "test_conformance" in str(template):
            raise OSError("no room left")
        return "text"

    monkeypatch.setattr(writing, "_filled", fails)
    with pytest.raises(OSError, match="no room"):
        writing.write_project("acme", "volume", tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


def test_it_says_what_it_wrote_and_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("new", "acme")
    assert "wrote replkit-acme/src/replkit_acme/__init__.py" in result.output
    assert "pip install -e '.[testing]'" in result.output
    told = json.loads(run("new", "acme", "--dir", "again", "--json").output)
    assert told["schema_version"] == 1
    assert sorted(told["files"]) == sorted(
        str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*") if path.is_file()
    )


def test_listing_is_what_it_was() -> None:
    assert "transport" in run().output
    assert {each["scheme"] for each in json.loads(run("--json").output)["schemes"]} >= {"file", "tcp", "local"}
