"""Pages of the site about one subject: a learner with its curves, an environment with its picture."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs import registry as tasks
from experiments import collect, papers, presets
from experiments.claims import common
from experiments.docs import reference
from experiments.docs.marked import docstring, table
from experiments.docs.pictures import FOLDER as PICTURES
from jaxrl.cli import zoo
from jaxrl.learners import registry
from jaxrl.report.files import read_json
from jaxrl.report.summary import bootstrap_interval, iqm

ROOT = Path(__file__).parents[2]
FILES = ("ppo", "ppo_1m", "sac", "sac_320k", "td3", "fast_td3")  # of results of presets
# Learners that a claim measures by another name than theirs: the claim, and its variants.
VARIANTS = {
    "dsac": ("dsac_reward_scale", ("dsac reward_scale=1",)),
    "imitation": ("chunks", ("flow", "diffusion", "Gaussian")),
    "mdpo": ("mdpo", ("mdpo, off policy",)),
    "ppo_mdpo": ("mdpo", ("mdpo, on policy",)),
    "her": ("her", ("her", "sac")),
    "pmoe": ("pmoe_multimodal", ("pmoe", "sac")),
    "bc": ("offline_data", ("bc",)),
    "iql": ("offline_data", ("iql",)),
    "td3_bc": ("offline_data", ("td3_bc",)),
}
MOST_PANELS = 9
TASKS = {  # that a learner is tried on, where it is not pendulum_swingup
    "discrete_sac": "gymnax/CartPole-v1",
    "dqn": "gymnax/CartPole-v1",
    "her": "point_maze_open",
    "ippo": "meeting",
    "ppo_lagrangian": "cruise",
}
LEARNERS = {"matrix_game": "ippo", "meeting": "ippo", "cruise": "ppo_lagrangian"}  # the reverse
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class Curve:
    """A learning curve: `values` [evaluations, seeds] at `steps` [evaluations]."""

    task: str
    label: str
    metric: str
    steps: list[int]
    values: np.ndarray


# --- Learners ---


def curves(learner: str) -> list[Curve]:
    """Returns the committed curves of a learner: of its presets, and of a claim about it."""
    found = []
    for name in FILES:
        for r in common.read(collect.RESULTS / f"{name}.json", collect.Result):
            if r["learner"] == learner:
                values = np.array(r["return"], float)
                found.append(Curve(r["env"], name, "return", r["env_steps"], values))
    claim, variants = VARIANTS.get(learner, ("", ()))
    for entry in common.read(collect.RESULTS / f"{claim}.json") if claim else []:
        if entry["variant"] in variants and len(entry["steps"]) > 1:
            values = np.array(entry["values"], float)
            label, metric = entry["variant"], entry["metric"]
            found.append(Curve(entry["task"], label, metric, entry["steps"], values))
    return found


def draw(found: list[Curve], path: Path) -> None:
    """Draws one panel for each task: IQM over seeds, 95% bootstrap interval, worst seed dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    shown = list(dict.fromkeys(curve.task for curve in found))[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.5 * rows), squeeze=False)
    labels = list(dict.fromkeys(curve.label for curve in found))
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, task in zip(axes.flat, shown, strict=False):
        for curve in (c for c in found if c.task == task):
            colour = COLOURS[labels.index(curve.label) % len(COLOURS)]
            mean = [iqm(x) for x in curve.values]
            low, high = np.array([bootstrap_interval(x) for x in curve.values]).T
            axis.plot(curve.steps, mean, color=colour, label=curve.label)
            axis.fill_between(curve.steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(curve.steps, curve.values.min(1), color=colour, linestyle=":", linewidth=1)
            axis.set_ylabel(curve.metric, fontsize=8)
        axis.set_title(task, fontsize=9)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def command(learner: str) -> str:
    """Returns the command that trains a learner."""
    if learner == "imitation":
        return "python experiments/imitate.py --data data/peg.npz --run-dir runs/peg"
    if registry.takes(learner) == "dataset":
        return f"python experiments/train.py --learner {learner} --data data/hopper_replay.npz"
    task = TASKS.get(learner, "pendulum_swingup")
    return f"python experiments/train.py --learner {learner} --env {task}"


def learner_page(name: str, figure: str, rows: list[papers.Paper]) -> str:
    """Returns the page of a learner.

    Args:
      name: in the registry.
      figure: the link to its curves; "" without.
      rows: the list of papers.
    """
    file = registry.LEARNERS[name].replace(".", "/") + ".py"
    module = registry.module(name)
    facts = [
        ["command", f"`{command(name)}`"],
        ["file", f"[`{file}`](../{file})"],
        ["room", file.split("/")[2]],
    ]
    built = [p for p in rows if p.method == file]
    for p in built:
        note = f" ({p.note})" if p.note else ""
        facts.append(["paper", f"[{p.title}](../experiments/PAPERS.md): {p.status}{note}"])
    used = [x for x, of in presets.VARIANTS.items() if of == name]
    if used:
        facts.append(["presets by name", ", ".join(f"`{x}`" for x in used)])
    parts = [f"# {name}", docstring(inspect.getdoc(module) or ""), table(["", ""], facts)]
    if figure:
        parts += [
            "## Curves",
            "The line is the interquartile mean over seeds, with a 95% bootstrap interval. The dotted line is the"
            " worst seed. Returns are those of the physics of training.",
            f"![Learning curves of {name}]({figure})",
        ]
    else:
        parts += ["## Curves", "No curve of this learner is committed."]
    settings = [
        [f"`{s.name}`", f"`{s.kind}`", f"`{s.default}`" if s.default else "", s.comment]
        for s in _all_settings(module.Config)
    ]
    parts += ["## Settings", table(["setting", "type", "default", ""], settings)]
    return "\n\n".join(parts) + "\n"


def _all_settings(config: type) -> list[reference.Setting]:
    """The settings of a config class and of those that it extends."""
    found: dict[str, reference.Setting] = {}
    for cls in reversed(config.__mro__[:-1]):
        path = Path(inspect.getfile(cls))
        if path.is_relative_to(ROOT):
            found |= {s.name: s for s in reference.settings(path, cls.__name__)}
    return list(found.values())


def learners_index(names: Iterable[str]) -> str:
    """Returns the list of all learners, with the first sentence of each."""
    rows = []
    for name in names:
        doc = inspect.getdoc(registry.module(name)) or ""
        first = " ".join(doc.split("\n\n")[0].split())
        rows.append([f"[{name}]({name}.md)", registry.LEARNERS[name].split(".")[2], first])
    return "# Learners\n\n" + table(["learner", "room", "what it is"], rows) + "\n"


# --- Environments ---


def environment_page(name: str) -> str:
    """Returns the page of a task: its picture, what it says of itself, options, scores."""
    task = tasks.TASKS[name]
    module = importlib.import_module(task.module)
    cls, file = getattr(module, task.cls), task.module.replace(".", "/") + ".py"
    parts = [f"# {name}"]
    if picture := picture_of(name):
        parts.append(f"![The start of an episode of {name}](../{picture}){{ width=400 }}")
    parts += [docstring(inspect.getdoc(module) or ""), docstring(inspect.getdoc(cls) or "")]
    facts = [["time limit", f"{task.limit} steps"], ["file", f"[`{file}`](../{file})"]]
    learner = LEARNERS.get(name, "ppo")
    facts.insert(0, ["make", f'`envs.make("{name}")`'])
    facts.insert(1, ["train", f"`python experiments/train.py --learner {learner} --env {name}`"])
    parts.append(table(["", ""], facts))
    if rows := list(_scores(name)):
        head = ["preset", "Gymnasium v5: return (IQM)", "trained on", "return there (IQM)"]
        parts += ["## Scores", table([*head, "95% interval", "seeds", "steps each"], rows)]
    options = [
        [f"`{s.name}`", f"`{task.fields.get(s.name, s.default)}`", s.comment]
        for s in _options(cls)
        if s.name != "sim"
    ]
    if hasattr(cls, "simulator"):
        levels = "physics" in inspect.signature(cls.simulator).parameters
        options += [["`physics`", "`'accurate'`", "how exact the solver is"]] if levels else []
    parts += ["## Options", table(["option of `envs.make`", "default", ""], options)]
    return "\n\n".join(parts) + "\n"


def picture_of(name: str) -> str:
    """The path of an environment's picture from the root of the repository; "" without one."""
    path = PICTURES / f"{name}.png"
    return str(path.relative_to(ROOT)) if path.exists() else ""


def _options(cls: Any) -> list[reference.Setting]:
    found: dict[str, reference.Setting] = {}
    for base in reversed(cls.__mro__[:-1]):
        path = Path(inspect.getfile(base))
        if path.is_relative_to(ROOT):
            classes = {
                x.name for x in ast.parse(path.read_text()).body if isinstance(x, ast.ClassDef)
            }
            if base.__name__ in classes:
                found |= {s.name: s for s in reference.settings(path, base.__name__)}
    return list(found.values())


def _scores(name: str) -> Iterable[list[str]]:
    """Rows of the presets' results on a task."""
    for preset, r in collect.results_of((*collect.SCORED, *collect.FAST)):
        if r["env"] != name:
            continue
        original = r.get("original")
        there = collect.scores(original["return"])[0] if original else ""
        physics = r["env_overrides"].get("physics", "accurate")
        mean, interval, _ = collect.scores(r["return"][-1])
        steps = f"{r['env_steps'][-1] / 1e6:.2f} M"
        yield [preset, there, physics, mean, interval, str(len(r["return"][-1])), steps]


def environments_index(names: Iterable[str]) -> str:
    """Returns a gallery: every picture leads to its page."""
    cards, plain = [], []
    for name in names:
        if picture := picture_of(name):
            cards.append(f"[![{name}](../{picture}){{ width=200 }}<br>{name}]({name}.md)")
        else:
            plain.append(f"- [{name}]({name}.md)")
    columns = 4
    cards += [""] * (-len(cards) % columns)
    rows = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    text = (
        "Pictures show the start of an episode. Brax's, Playground's and gymnax's environments are"
    )
    text += ' made by `envs.make("brax/NAME")` and the like, your own by `envs.make("MODULE:FUNCTION")`.'
    parts = [
        "# Environments",
        text,
        table([" "] * columns, rows),
        "Without a picture:",
        "\n".join(plain),
    ]
    return "\n\n".join(parts if plain else parts[:-2]) + "\n"


# --- Policies ---


def zoo_page() -> str:
    """Returns the page of the policies that come with the package."""
    parts = [
        "# Policies",
        "Small trained policies come with the package. `jaxrl demo NAME` shows one acting, and `jaxrl pull"
        " OWNER/NAME` fetches others. A policy is two files, a card and its arrays. Nothing is unpickled.",
    ]
    for name, text in zoo.shipped().items():
        card = read_json(zoo.FOLDER / name / zoo.CARD, zoo.Card)
        score = card["score"]
        interval = f"95% interval {score['low']:.5g} .. {score['high']:.5g}"
        facts = [
            ["show", f"`jaxrl demo {name}`"],
            ["task", f"[{card['env']}](environments/{card['env']}.md)"],
            ["learner", f"[{card['learner']}](learners/{card['learner']}.md)"],
            ["trained for", f"{card['steps']:,} {card['unit']}"],
            [
                f"{score['metric']} of {score['episodes']} episodes",
                f"{score['mean']:.5g}, {interval}",
            ],
            ["command", f"`{card['command']}`"],
            ["jaxrl", card["jaxrl"]],
        ]
        parts += [f"## {name}", text, table(["", ""], facts)]
    return "\n\n".join(parts) + "\n"
