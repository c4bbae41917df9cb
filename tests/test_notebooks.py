"""The notebooks run, from the first cell to the last, and draw what they promise."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMALLER = {
    "ITERATIONS = 50": "ITERATIONS = 2",
    "ITERATIONS = 100": "ITERATIONS = 2",
    "ITERATIONS = 40": "ITERATIONS = 2",
    "ITERATIONS = 30": "ITERATIONS = 2",
    "UPDATES = 3000": "UPDATES = 200",
    "num_evals=5, eval_episodes=128": "num_evals=1, eval_episodes=8",
    "num_evals=1, eval_episodes=128": "num_evals=1, eval_episodes=8",
    "num_evals=6": "num_evals=2",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_plots(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # the same cells on a size for tests
        for large, small in SMALLER.items():
            cell.source = cell.source.replace(large, small)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": path.parent}}).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "no plot"


def test_there_are_five_notebooks_of_these_sizes():
    tutorials = ["own_learner", "own_task"]
    assert [p.stem for p in NOTEBOOKS] == [
        *tutorials,
        "quick_start",
        "refinement",
        "sweeping_seeds",
    ]
    text = "".join(p.read_text() for p in NOTEBOOKS)
    assert not [large for large in SMALLER if large not in text]
