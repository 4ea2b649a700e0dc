"""Every configuration shown on a page is one that a daemon takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replkit.errors import ConfigError
from replkit.site.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [
    (str(page.relative_to(ROOT)), text)
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])
    for text in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    if re.search(r"^site = ", text, re.MULTILINE)
]


def test_pages_show_configurations():
    assert len(SHOWN) >= 2


@pytest.mark.parametrize(("page", "text"), SHOWN, ids=[page for page, _ in SHOWN])
def test_a_configuration_on_a_page_has_no_fault(page, text):
    assert parse_config(text, page).site


def test_a_fault_in_one_would_be_found():
    with pytest.raises(ConfigError, match="nowhere"):
        parse_config(SHOWN[-1][1] + "nowhere = 1\n")
