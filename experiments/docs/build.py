"""Builds the documentation site: the READMEs, docstrings, results and notebooks as one set of pages.

    pip install -e ".[docs]"
    python experiments/docs/build.py --out site

Open `site/index.html`. The search needs a web server: `python -m http.server -d site`. A link that leads
nowhere is an error.

The pages keep their places in the repository, so that links between them stay as they are. A link to
a source file leads to a page that shows the file.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs import registry as tasks
from experiments import papers
from experiments.docs import marked, reference, subjects
from jaxrl.cli import flags, script
from jaxrl.learners import registry

ROOT = Path(__file__).parents[2]
SETTINGS = Path(__file__).parent / "mkdocs.yml"
STYLE = Path(__file__).parent / "site.css"
GUIDES = {
    "The library": "jaxrl/README.md",
    "Environments, your own robot": "envs/README.md",
    "Experiments": "experiments/README.md",
    "Coming from another library": "experiments/docs/coming_from.md",
    "What users ask for": "experiments/docs/requests.md",
    "Benchmarks": "experiments/bench/README.md",
    "Contributing": "CONTRIBUTING.md",
    "Changes": "CHANGELOG.md",
}
EVIDENCE = {"Papers": "experiments/PAPERS.md", "Claims": "experiments/claims/README.md"}
HOME = "README.md"
SHOWN = (".py", ".toml", ".sh", ".xml")  # files that a page can show; others are copied


@dataclass
class Args:
    out: Path = Path("site")  # the folder to write; an earlier site in it is replaced


class Stage:
    """A folder that is filled with pages, and with the files that they link to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pages: dict[str, str] = {}
        self._sources: set[str] = set()

    def add(self, path: str, text: str) -> None:
        """Adds a page at a path from the root of the repository."""
        self._pages[path] = text

    def write(self) -> None:
        """Writes every page, with its links rewritten, and the files that are linked to."""
        for path, text in list(self._pages.items()):
            linked = marked.relinked(text, path, self._lead)
            self._write(path, marked.for_site(linked))
        for name in self._sources:
            page = f"{name}.md"
            self._write(page, marked.code(ROOT / name, name))

    def _write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _lead(self, path: str) -> str | None:
        """Where a link to `path` goes on the site; None: the link stays."""
        if path in self._pages or (self.folder / path).exists():
            return None
        file = ROOT / path
        if file.suffix == ".ipynb":
            return str(Path(path).with_suffix(".md"))
        if file.is_dir():
            readme = f"{path}/README.md"
            if readme not in self._pages:
                self._pages[readme] = _listing(path)
                linked = marked.relinked(_listing(path), readme, self._lead)
                self._write(readme, linked)
            return readme
        if file.suffix in SHOWN and file.is_file():
            self._sources.add(path)
            return f"{path}.md"
        if file.is_file():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.folder / path)
        return None  # a link that leads nowhere is found by MkDocs


def _listing(path: str) -> str:
    files = sorted(x.name for x in (ROOT / path).iterdir() if x.is_file() and x.name[0] != "_")
    return f"# `{path}/`\n\n" + "\n".join(f"- [{name}]({name})" for name in files) + "\n"


def fill(folder: Path) -> list[Any]:
    """Writes every page into `folder` and returns the navigation."""
    stage = Stage(folder)
    for page in (HOME, *GUIDES.values(), *EVIDENCE.values()):
        if (ROOT / page).exists():
            stage.add(page, (ROOT / page).read_text())
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in notebooks:
        stage.add(f"notebooks/{name}.md", marked.notebook(ROOT / f"notebooks/{name}.ipynb"))
    rows = papers.load()
    for name in registry.LEARNERS:
        figure, found = f"learners/{name}.svg", subjects.curves(name)
        if found:
            subjects.draw(found, folder / figure)
        stage.add(
            f"learners/{name}.md", subjects.learner_page(name, f"{name}.svg" if found else "", rows)
        )
    stage.add("learners/README.md", subjects.learners_index(registry.LEARNERS))
    for name in tasks.TASKS:
        stage.add(f"environments/{name}.md", subjects.environment_page(name))
    stage.add("environments/README.md", subjects.environments_index(tasks.TASKS))
    stage.add("zoo.md", subjects.zoo_page())
    for title in reference.PAGES:
        stage.add(f"reference/{title}.md", reference.page(title))
    stage.write()
    shutil.copy(STYLE, folder)

    section = lambda names, folder: [{name: f"{folder}/{name}.md"} for name in names]
    guides = [{title: page} for title, page in GUIDES.items() if (ROOT / page).exists()]
    return [
        {"Home": HOME},
        {"Guides": [*guides, {"Notebooks": section(notebooks, "notebooks")}]},
        {
            "Learners": [
                {"All learners": "learners/README.md"},
                *section(registry.LEARNERS, "learners"),
            ]
        },
        {
            "Environments": [
                {"All environments": "environments/README.md"},
                *section(tasks.TASKS, "environments"),
            ]
        },
        {"Policies": "zoo.md"},
        {"Evidence": [{title: page} for title, page in EVIDENCE.items()]},
        {"Reference": section(reference.PAGES, "reference")},
    ]


class _Heard(logging.Handler):
    """Keeps the warnings of MkDocs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def build(out: Path) -> None:
    """Builds the site into the folder `out`.

    Raises:
      ImportError: mkdocs-material is not installed.
      ValueError: a link leads nowhere, `out` holds something that is no site, or this is a wheel.
    """
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # of the theme, about a version to come
    try:
        import material  # noqa: F401
        from mkdocs.commands.build import build as build_site
        from mkdocs.config import load_config
    except ImportError:
        raise ImportError("the site needs mkdocs-material: pip install -e '.[docs]'") from None
    if not (ROOT / HOME).exists():
        raise ValueError("the site is built from a clone of the repository, not from a wheel")
    if out.exists() and any(out.iterdir()) and not (out / "sitemap.xml").exists():
        raise ValueError(f"{out} exists and is no site: choose another --out")
    heard = _Heard()
    logger = logging.getLogger("mkdocs")
    logger.addHandler(heard)
    try:
        with tempfile.TemporaryDirectory() as folder:
            nav = fill(Path(folder))
            config = load_config(
                str(SETTINGS), docs_dir=folder, site_dir=str(out.absolute()), nav=nav
            )
            build_site(config)
    finally:
        logger.removeHandler(heard)
    if heard.lines:
        raise ValueError(f"{len(heard.lines)} mistakes in the pages: " + "; ".join(heard.lines))


def main() -> int:
    args = flags.read(Args)
    build(args.out)
    pages = len(list(args.out.rglob("*.html")))
    print(f"{args.out}: {pages} pages; open {args.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    script.run(main)
