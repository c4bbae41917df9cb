"""The pages that guide readers: links lead somewhere, the picture is current, examples run."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments import overview

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "jaxrl/README.md", "envs/README.md", "experiments/README.md")


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


def example(path: str) -> str:
    """The code block of jaxrl/README.md that begins with the comment `# path`."""
    page = (ROOT / "jaxrl/README.md").read_text()
    (code,) = re.findall(rf"```python\n# {re.escape(path)}\n(.*?)```", page, re.S)
    return code


@pytest.mark.parametrize("name", ["off_policy.caps", "on_policy.spo"])
def test_an_example_of_a_method_passes_its_own_test(name, monkeypatch):
    module = ModuleType(f"jaxrl.learners.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # as if it was a file
    exec(example(f"{module.__name__.replace('.', '/')}.py"), vars(module))
    scope: dict = {}
    exec(example(f"tests/learners/test_{name.split('.')[1]}.py"), scope)
    laws = [function for law, function in scope.items() if law.startswith("test_")]
    assert len(laws) >= 3
    for law in laws:
        law()
