"""Every `replkit …` line on a page names a command and options that the command line has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from replkit.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(?:\$ )?(?:.*&& )?(?:\.venv/bin/)?replkit (.*)$", re.MULTILINE)


def shown() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
    return [
        (str(page.relative_to(ROOT)), line)
        for page in pages
        for block in _BLOCK.findall(page.read_text().replace("\\\n", ""))
        for line in _LINE.findall(block)
    ]


def fault(words: list[str]) -> str | None:
    """What in the words the command line does not know; it is asked as a user's shell would ask it."""
    command: click.Command = main
    context = click.Context(command, info_name="replkit")
    names: set[str] = set()
    for word in words:
        options = {
            name for parameter in command.get_params(context) for name in [*parameter.opts, *parameter.secondary_opts]
        }
        names |= options
        if word.startswith("-") and word.split("=")[0] not in names:
            return f"option {word}"
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            if found is None:
                return f"command {word}"
            command, context = found, click.Context(found, info_name=word, parent=context)
    return None


def test_pages_show_commands():
    assert shown()


@pytest.mark.parametrize(("page", "line"), shown())
def test_the_command_line_has_what_the_page_shows(page, line):
    assert fault(shlex.split(line, comments=True)) is None


def test_an_unknown_command_or_option_is_found():
    assert fault(["nothing-of-the-kind"]) == "command nothing-of-the-kind"
    assert fault(["status", "--nothing-of-the-kind"]) == "option --nothing-of-the-kind"
