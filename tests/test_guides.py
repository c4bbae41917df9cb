"""The pages that guide readers: links lead somewhere, the picture is current, examples run."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import envs
from envs import registry
from experiments import overview
from jaxrl.report import log

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "jaxrl/README.md", "envs/README.md", "experiments/README.md")
PAGES += ("CONTRIBUTING.md", "experiments/docs/coming_from.md", "experiments/docs/requests.md")


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


EXAMPLES = {  # file: the page that has it
    "jaxrl/learners/off_policy/caps.py": "jaxrl/README.md",
    "jaxrl/learners/on_policy/spo.py": "jaxrl/README.md",
    "envs/transforms/sticky.py": "envs/README.md",
}


def block(page: str, path: str) -> str:
    """The code block of `page` that begins with the comment `# path`."""
    (code,) = re.findall(rf"```python\n# {re.escape(path)}\n(.*?)```", page, re.S)
    return code


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_passes_its_own_test(path, monkeypatch):
    page, name = (ROOT / EXAMPLES[path]).read_text(), Path(path).stem
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # as if it was a file
    exec(block(page, path), vars(module))
    if path.startswith("jaxrl/learners/"):
        assert f'"{name}": "{module.__name__}",' in page  # the line of the registry
    folder = "envs" if path.startswith("envs/") else "learners"
    monkeypatch.syspath_prepend(ROOT / "tests" / folder)  # as pytest does for a file there
    scope: dict = {}
    exec(block(page, f"tests/{folder}/test_{name}.py"), scope)
    laws = [function for law, function in scope.items() if law.startswith("test_")]
    assert len(laws) >= 2
    for law in laws:
        law()


def test_the_environment_of_the_guide_is_made_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    (code,) = re.findall(
        r"## Add an environment\n\n```python\n(.*?)```", (ROOT / "envs/README.md").read_text(), re.S
    )
    exec(code, {"__name__": "guide"})
    assert envs.make("push", gain=0.2).limit == 50


def test_the_sink_of_the_guide_gives_metrics_to_mlflow(monkeypatch):
    calls = []
    names = ("set_experiment", "start_run", "log_metrics", "end_run")
    fake = SimpleNamespace(**{n: lambda *a, n=n, **k: calls.append((n, a, k)) for n in names})
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    page = (ROOT / "jaxrl/README.md").read_text()
    (code,) = re.findall(r"```python\nimport mlflow\n(.*?)\n\n\ntrain\(", page, re.S)
    scope: dict = {"mlflow": fake}
    exec(code, scope)
    with log.Logger(None, 8, quiet=True, sinks=[scope["MLflow"]("hopper")]) as logger:
        logger.log("eval", 4, 1.0, 4.0, {"return": np.array([2.5])})
    assert calls[:2] == [("set_experiment", ("hopper",), {}), ("start_run", (), {})]
    logged = next(call for call in calls if call[0] == "log_metrics")
    assert logged[1][0]["eval/return"] == 2.5 and logged[2] == {"step": 4}
    assert calls[-1][0] == "end_run"
