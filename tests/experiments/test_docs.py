"""The documentation: what its tables name exists, and its pages are built."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import shutil
from pathlib import Path

import pytest

import envs
from envs import registry as envs_registry
from experiments import presets
from experiments.docs import asked, marked, reference
from jaxrl.cli.commands import COMMANDS
from jaxrl.learners import registry
from jaxrl.report.log import Logger
from jaxrl.run.train import train

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "experiments/docs"
PICTURES = DOCS / "pictures"
LEARNERS_OF = {"rlpd": ("sac",), "imitate": ("imitation",), "sweep": ("ppo",), "tune": ("ppo",)}
LEARNERS_OF |= {name: (name,) for name in ("ppo", "sac", "td3")}
LEARNERS_OF |= {"residual": ("ppo", "sac", "td3"), "offline": ("bc", "iql", "td3_bc")}
SUITES = ("brax/", "playground/", "gymnax/", "pixels/")
# Names of our types' fields and of files of a run, and words of a command line.
WORDS = {"terminated", "truncated", "data", "metrics.jsonl", "RUN", "--data"}
WORDS |= {"reset", "step", "train", "policy", "flow", "gaussian"}


def words_of(script: str) -> set[str]:
    """The flags of a script that tyro reads, with underscores."""
    name = Path(script).stem
    found = set()
    for path in (ROOT / script, ROOT / "experiments/train.py", ROOT / "jaxrl/cli/script.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Args"):
                found |= {x.target.id for x in node.body if isinstance(x, ast.AnnAssign)}
    for learner in LEARNERS_OF.get(name, registry.LEARNERS):
        found |= {f.name for f in dataclasses.fields(registry.module(learner).Config)}
    return found


def options_of(module: Path) -> set[str]:
    """The flags of a command that argparse reads, with underscores."""
    text = module.read_text() + (ROOT / "jaxrl/cli/flags.py").read_text()
    return {x.replace("-", "_") for x in re.findall(r'add_argument\(\s*"--([\w-]+)"', text)}


def check_command(words: list[str]) -> None:
    """A command line of the pages: its script or module, its flags, its learner and its task."""
    if words[0] == "python" and words[1] == "-m":
        where = {"jaxrl.data": "jaxrl/cli/convert.py", "jaxrl.export": "jaxrl/cli/export.py"}
        given, allowed = words[3:], options_of(ROOT / where[words[2]])
    else:
        path, given = words[1], words[2:]
        if words[0] == "jaxrl":
            path = COMMANDS[words[1]][0]
        if path.endswith(".py"):
            allowed = words_of(path)
        else:
            allowed = options_of(ROOT / f"jaxrl/cli/{path.split('.')[-1]}.py")
    for word, value in itertools.pairwise([*given, ""]):
        if word.startswith("--"):
            flag = word.removeprefix("--").replace("-", "_")
            assert flag in allowed or flag.removeprefix("no_") in allowed, (words, word)
        if word == "--env":
            assert (
                value in envs.names() or value.startswith(SUITES) or value.isupper() or ":" in value
            )
        if word == "--learner":
            assert value in presets.names(), words


def check_name(dotted: str) -> None:
    """A module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return
    raise AssertionError(f"no module {dotted}")


def check_span(span: str, clause: str) -> None:
    """What is between two backticks exists here."""
    words = span.split()
    if words[0] in ("python", "jaxrl") and len(words) > 1:
        return check_command(words)
    if "/" in span and (ROOT / span).exists():
        return None
    if found := re.fullmatch(r'envs\.make\("(.*)"\)', span):
        assert found[1] in envs.names() or found[1].startswith(SUITES), span
        return None
    if span == 'resets="cached"' or span == "resets=":
        assert "resets" in inspect.signature(envs.vectorize).parameters
        return None
    if span.endswith("=") or span.startswith("train("):
        names = {*inspect.signature(train).parameters, *inspect.signature(Logger).parameters}
        assert span.startswith("train(") or span[:-1] in names, span
        return None
    if re.match(r"(envs|jaxrl)\.", span):
        return check_name(span)
    if found := re.fullmatch(r"(\w+)\.Config", span):
        return check_name(registry.LEARNERS[found[1]] + ".Config")
    if found := re.search(r"of `(\w+)\.Config`", clause):
        config = registry.module(found[1]).Config
        if span in {f.name for f in dataclasses.fields(config)}:
            return None
    if clause.strip().startswith("the learners"):
        assert span in registry.LEARNERS, span
        return None
    if found := re.match(r"(policy|VecState|state)\b\.?(\w*)", span):
        kinds = {"policy": "jaxrl.types.Policy", "VecState": "envs.vector.VecState"}
        kinds |= {"state": "envs.types.State"}
        where, _, kind = kinds[found[1]].rpartition(".")
        kind = getattr(importlib.import_module(where), kind)
        assert not found[2] or hasattr(kind, found[2]) or found[2] in kind.__annotations__, span
        return None
    known = WORDS | {*envs.names(), *registry.LEARNERS}
    assert span.removesuffix("()") in known, f"{span!r} is not checked"
    return None


def check_text(text: str, folder: Path = DOCS) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert "://" in target or (folder / target).exists(), target
    for clause in text.split(";"):
        for span in re.findall(r"`([^`]+)`", clause):
            check_span(span, clause)


def rows_of(page: str, section: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", page, re.S | re.M)
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


COMING = (DOCS / "coming_from.md").read_text()
LIBRARIES = [x for x in re.findall(r"^## (.*)$", COMING, re.M) if not x.startswith("What")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_equivalent_of_a_habit_exists(library):
    rows = rows_of(COMING, library)
    assert len(rows) > 10 and all(len(row) == 2 for row in rows), rows
    for _, here in rows:
        check_text(here)


@pytest.mark.parametrize("row", asked.load(), ids=lambda row: row.request.replace(" ", "_"))
def test_what_answers_a_request_exists(row):
    check_text(row.use)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", asked) for asked in row.asked)


def test_there_are_25_requests():
    assert len(asked.load()) == 25


def test_a_name_a_flag_or_a_file_that_does_not_exist_is_found():
    for wrong in (
        "`python experiments/ppo.py --clip-coef 0.2`",
        "`python experiments/ppo.py --learner pp0`",
        "`jaxrl play RUN --pixels`",
        "`envs.transforms.sticky`",
        "`num_steps` of `ppo.Config`",
        '`envs.make("hoper")`',
        "`callback=` of `train`",
        "[page](../missing.md)",
    ):
        with pytest.raises((AssertionError, AttributeError)):
            check_text(wrong)


@pytest.mark.parametrize(
    "change, message",
    [
        ('status = "not yet"', "`use` is 'x'"),
        ('status = "yes"', "status='yes': must be"),
        ('status = "partly"', "`missing` is ''"),
        ('status = "has"\nhow = "x"', "unknown field how"),
    ],
)
def test_a_row_that_lacks_what_its_status_asks_for_is_refused(tmp_path, change, message):
    path = tmp_path / "requests.toml"
    path.write_text(f'[[request]]\nrequest = "x"\nasked = []\nuse = "x"\n{change}\n')
    with pytest.raises(ValueError, match=re.escape(message)):
        asked.load(path)


# --- The site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    from experiments.docs import build

    out = tmp_path_factory.mktemp("site") / "site"
    build.build(out)  # raises where a link leads nowhere
    return out


def test_the_site_has_a_page_for_every_learner_environment_and_notebook(site):
    for name in registry.LEARNERS:
        page = (site / f"learners/{name}.html").read_text()
        assert "Settings" in page and f"{name}.svg" in page or "No curve" in page
    for name in envs_registry.TASKS:
        page = (site / f"environments/{name}.html").read_text()
        assert ("The start of an episode" in page) == (PICTURES / f"{name}.png").exists()
    assert len(list(PICTURES.glob("*.png"))) > 20
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {path.stem for path in (site / "notebooks").glob("*.html")}


def test_links_of_the_site_lead_to_its_files(site):
    """MkDocs checks the links of Markdown; this one also those that the build wrote."""
    for page in (site / "index.html", site / "learners/sac.html", site / "environments/index.html"):
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if "://" not in target and not target.startswith("data:"):
                assert (page.parent / target).exists(), (page, target)


def test_a_page_with_a_link_that_leads_nowhere_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("material")
    from experiments.docs import build

    def fill(folder):
        (folder / "index.md").write_text("[gone](nowhere.md)")
        shutil.copy(build.STYLE, folder)
        return [{"Home": "index.md"}]

    monkeypatch.setattr(build, "fill", fill)
    with pytest.raises(ValueError, match="nowhere.md"):
        build.build(tmp_path / "site")


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path):
    pytest.importorskip("material")
    from experiments.docs import build

    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and is no site"):
        build.build(tmp_path)


def test_a_docstring_becomes_lists():
    text = "Returns x.\n\nArgs:\n  a: of [*B, N],\n    twice.\n  b, c: `<x>`.\n\nRaises:\n  ValueError: no."
    page = marked.docstring(text)
    assert "**Args**\n\n- `a`: of [\\*B, N],\n    twice.\n- `b, c`: `<x>`." in page
    assert page.endswith("**Raises**\n\n- `ValueError`: no.")


def test_links_to_source_files_lead_to_pages_and_code_stays_as_it_is():
    text = "[a](../envs/a.py#x) [b](b.md)\n\n```python\n[c](a.py)\n```"
    lead = lambda path: f"{path}.md" if path.endswith(".py") else None
    found = marked.relinked(text, "jaxrl/README.md", lead)
    assert found == text.replace("a.py#x", "a.py.md#x")


def test_settings_are_read_with_their_comments_and_defaults(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "class Config:\n    a: Share = 0.5  # of all\n    b: int = struct.field(default=2)\n"
    )
    found = reference.settings(path, "Config")
    assert [(s.name, s.kind, s.default, s.comment) for s in found] == [
        ("a", "Share", "0.5", "of all"),
        ("b", "int", "2", ""),
    ]
