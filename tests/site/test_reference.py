"""The reference pages say what the code does: the configuration is one, every key and field and command is there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from replkit.cli.main import COMMANDS
from replkit.replication.policy import Policy
from replkit.site.config import PeerConfig, SaveVolumeConfig, SiteConfig, VolumeConfig, parse_config, policy_of

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.fixture
def page():
    return (REFERENCE / "config.md").read_text()


def test_the_configuration_on_the_page_is_valid(page):
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = parse_config(text)
    assert policy_of(config.volumes["disk"])["congestion"] == "pull-ahead"


def test_every_key_and_field_is_on_the_page(page):
    keys = [*SiteConfig.model_fields, *VolumeConfig.model_fields, *PeerConfig.model_fields]
    keys += [*SaveVolumeConfig.model_fields, *(field.name for field in msgspec.structs.fields(Policy))]
    assert [key for key in keys if not re.search(rf"`[a-z_.<>]*{key}", page)] == []


def test_every_command_is_on_the_page():
    text = (REFERENCE / "cli.md").read_text()
    assert [name for name in COMMANDS if f"replkit {name}" not in text] == []
