"""The README's numbers come from committed results, and its code runs."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
sys.path.insert(0, str(ROOT / "experiments"))

import collect  # noqa: E402
import presets  # noqa: E402

import envs  # noqa: E402
from jaxrl.learners import ppo  # noqa: E402


def test_the_table_is_the_one_the_results_give():
    results = json.loads((ROOT / "experiments/results/ppo.json").read_text())
    shown = README.split(collect.BEGIN)[1].split(collect.END)[0].strip()
    assert shown == collect.table(results)


def test_results_were_made_with_the_presets():
    for result in json.loads((ROOT / "experiments/results/ppo.json").read_text()):
        preset = presets.PPO[result["env"]]
        assert result["train"]["total_steps"] == preset.total_steps, result["env"]
        assert result["env_overrides"] == preset.env
        assert result["config"]["num_envs"] == preset.config.num_envs
        assert result["config"]["learning_rate"] == preset.config.learning_rate
        assert result["config"]["gamma"] == preset.config.gamma


@pytest.mark.parametrize("task", sorted(presets.PPO))
def test_every_preset_is_valid(task):
    preset = presets.PPO[task]
    assert task in envs.names()
    config = preset.config.replace(schedule_steps=float(preset.total_steps))
    ppo.validate(config)
    assert preset.total_steps % (config.num_envs * config.unroll_length) == 0


@pytest.mark.slow
def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope: dict = {}
    exec(example, scope)
    assert scope["result"].evals[-1]["return"].shape == (2,)


def test_every_file_the_readme_names_exists():
    for name in re.findall(r"`((?:experiments|envs|jaxrl)/[\w/.]+\.(?:py|json))`", README):
        assert (ROOT / name).exists() or "NAME" in name, name
