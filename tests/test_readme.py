"""README.md: its pictures and links are there, and it names every command."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from kdtool import registry
from kdtool.cli import _COMMANDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURES = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_there_is_a_picture_of_the_run_and_of_the_report() -> None:
    assert PICTURES == ["docs/run.svg", "docs/report.png"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_opens_and_is_small(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_size < 400_000
    if path.suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        text = path.read_text(encoding="utf-8")
        assert "kdtool&#160;run" in text or "kdtool run" in text
        assert not re.search(r"(src|href|url)\W+https?:", text)  # it fetches nothing
    else:
        with Image.open(path) as image:
            image.verify()


def test_every_command_has_its_line() -> None:
    table = TEXT.split("## Commands")[1].split("\n\n")[1]
    named = re.findall(r"^\| `kdtool ([\w-]+)", table, re.M)
    assert sorted(named) == sorted(_COMMANDS)


def test_every_method_has_its_row() -> None:
    table = TEXT.split("<!-- methods table")[1].split("<!-- end of methods table")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.M)
    own = [entry.name for entry in registry.entries() if entry.distribution == "kdtool"]
    assert named == ["none", *own]
