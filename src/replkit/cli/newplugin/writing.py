"""Writes the project: names checked, nothing overwritten, all of it or nothing."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME = 40
_HERE: Final = files("replkit.cli.newplugin").joinpath("files")
KINDS: Final = {"volume": "volume", "save-volume": "save volume", "transport": "transport"}
"""Folder of the files of a kind, and the word for it."""


def check_name(name: str, kind: str, taken: dict[str, tuple[str, ...]]) -> None:
    """Refuse what can be no distribution and no scheme, and a scheme that a plugin has ``taken`` for this kind."""
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{name!r} is no name of a plugin",
            hint=f"small letters, digits and single hyphens, a letter first, at most {_MAX_NAME}: it is the URL scheme",
        )
    if KINDS[kind] in taken.get(name, ()):
        raise AlreadyExistsError(f"a plugin that is installed opens {KINDS[kind]}s at {name}: already")


def write_project(name: str, kind: str, folder: Path) -> list[str]:
    """Write the project into ``folder``, which must not exist; the files, relative to it.

    Raises:
        AlreadyExistsError: the folder is there.
        NotFoundError: the folder in which it is to be made is not.
    """
    if folder.exists():
        raise AlreadyExistsError(f"{folder} exists already", hint="name another folder with --dir")
    if not folder.parent.is_dir():
        raise NotFoundError(f"{folder.parent} is no folder")
    words = _words(name, kind)
    own, common = _HERE.joinpath(kind), _HERE.joinpath("common")
    texts = {
        "pyproject.toml": common.joinpath("pyproject.toml.in"),
        "README.md": common.joinpath("README.md.in"),
        f"src/{words['package']}/__init__.py": own.joinpath("module.py.in"),
        "tests/test_conformance.py": own.joinpath("test_conformance.py.in"),
    }
    try:
        for place, template in texts.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(template, words), encoding="utf-8")
        (folder / f"src/{words['package']}/py.typed").touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it was not there before
        raise
    return [*texts, f"src/{words['package']}/py.typed"]


def _words(name: str, kind: str) -> dict[str, str]:
    return {
        "name": name,
        "kind": KINDS[kind],
        "distribution": f"replkit-{name}",
        "package": f"replkit_{name.replace('-', '_')}",
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "url": f"{name}:///srv/place",
    }


def _filled(template: Traversable, words: dict[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
