"""The pages that guide readers: links lead somewhere, the picture is current."""

import re
from pathlib import Path

import pytest

from experiments import overview

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "experiments/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(page):
    def anchors(text: str) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", text, re.M)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.read_text()), target


def test_the_picture_was_drawn_from_the_committed_results():
    drawn_from = overview.stored_digest()
    assert drawn_from == overview.digest(overview.sources()), "run experiments/overview.py"
    assert overview.PICTURE.stat().st_size < 150_000
