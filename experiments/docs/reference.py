"""Pages of the site that are made of docstrings: one for each room, and settings of learners.

Modules are parsed and not imported.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.docs.marked import docstring

ROOT = Path(__file__).parents[2]
# The pages: a title, and the files or folders whose public names they show.
PAGES = {
    "envs": ("envs/types.py", "envs/registry.py", "envs/vector.py", "envs/contract.py"),
    "envs.mjcf": ("envs/mjcf.py", "envs/rewards.py", "envs/render.py"),
    "envs.transforms": ("envs/transforms",),
    "envs.adapters": ("envs/adapters",),
    "jaxrl": ("jaxrl/types.py", "jaxrl/config.py", "jaxrl/episodes.py", "jaxrl/originals.py"),
    "jaxrl.run": ("jaxrl/run/train.py", "jaxrl/run/checkpoint.py", "jaxrl/cli/runs.py"),
    "jaxrl.learners": ("jaxrl/learners/registry.py",),
    "jaxrl.loops": ("jaxrl/loops",),
    "jaxrl.compose": ("jaxrl/compose",),
    "jaxrl.policies": ("jaxrl/policies",),
    "jaxrl.data": ("jaxrl/data",),
    "jaxrl.ops": ("jaxrl/ops",),
    "jaxrl.nn": ("jaxrl/nn",),
    "jaxrl.report": ("jaxrl/report/log.py", "jaxrl/report/summary.py"),
}


def page(title: str) -> str:
    """Returns the page of the reference with this title."""
    files = []
    for name in PAGES[title]:
        path = ROOT / name
        files += sorted(path.glob("*.py")) if path.is_dir() else [path]
    parts = [f"# {title}"]
    for path in files:
        module = ast.parse(path.read_text())
        shown = [part for node in module.body if (part := _entry(node))]
        if not shown:
            continue
        name = str(path.relative_to(ROOT))
        parts.append(f"## {_dotted(name)}\n\n[`{name}`](../{name})")
        parts += [docstring(ast.get_docstring(module) or ""), *shown]
    return "\n\n".join(parts) + "\n"


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _entry(node: ast.stmt) -> str:
    """The part of a page about a public function or class with a docstring; "" for others."""
    is_class, is_function = isinstance(node, ast.ClassDef), isinstance(node, ast.FunctionDef)
    if not (is_class or is_function) or node.name.startswith("_"):
        return ""
    text = ast.get_docstring(node)
    if not text:
        return ""
    if is_function:
        return f"### {node.name}\n\n{_signature(node)}\n\n{docstring(text)}"
    parts = [f"### {node.name}", docstring(text)]
    if fields := [x for x in node.body if isinstance(x, ast.AnnAssign)]:
        lines = [ast.unparse(x) for x in fields if not x.target.id.startswith("_")]
        parts.append("```python\n" + "\n".join(lines) + "\n```")
    for method in node.body:
        shown = isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
        if shown and (text := ast.get_docstring(method)):
            parts.append(
                f"#### {node.name}.{method.name}\n\n{_signature(method)}\n\n{docstring(text)}"
            )
    return "\n\n".join(parts)


def _signature(node: ast.FunctionDef) -> str:
    """A code block with a function's name, arguments and result, one argument a line if it is long."""
    arguments, returns = ast.unparse(node.args), node.returns and ast.unparse(node.returns)
    arrow = f" -> {returns}" if returns else ""
    text = f"{node.name}({arguments}){arrow}"
    if len(text) > 90:
        text = f"{node.name}(\n    " + ",\n    ".join(_split(arguments)) + f",\n){arrow}"
    return f"```python\n{text}\n```"


def _split(arguments: str) -> list[str]:
    """The arguments, cut at commas that are not inside brackets or quotes."""
    parts, depth, quoted = [""], 0, ""
    for letter in arguments:
        if letter in "'\"" and quoted in ("", letter):
            quoted = "" if quoted else letter
        depth += 0 if quoted else (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


@dataclass(frozen=True)
class Setting:
    """A field of a class: how it is written, and the comment behind it."""

    name: str
    kind: str
    default: str
    comment: str


def settings(path: Path, cls: str) -> list[Setting]:
    """Returns the annotated fields of a class in a source file, in their order."""
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return [_setting(x, lines) for x in node.body if isinstance(x, ast.AnnAssign)]
    raise ValueError(f"{path} has no class {cls}")


def _setting(node: ast.AnnAssign, lines: list[str]) -> Setting:
    default = ast.unparse(node.value) if node.value else ""
    if found := re.match(r"struct\.field\(.*default=(.*)\)$", default):
        default = found[1]
    _, _, comment = lines[node.end_lineno - 1][node.end_col_offset :].partition("#")
    return Setting(node.target.id, ast.unparse(node.annotation), default, comment.strip())
