"""OGBench's `.npz`: which files are in its layout. `files.load` reads them.

Source: `load_dataset` in ogbench/utils.py of seohongpark/ogbench at commit 5f6bad5. The arrays:

    observations  [T, obs], uint8 images where the task is visual
    actions       [T, A]
    terminals     [T] 1 at the last row of every trajectory: a mark, not an end of the MDP
    qpos, qvel    [T, n] the simulator's state; button_states beside them in some tasks

There are no rewards: they come from the task. A trajectory's last row is its final observation, and
the row before leads there. OGBench's own loader drops the last row. Ours keeps it and marks it as not
`valid`: cloning uses its action, learners that bootstrap skip it.
"""

from __future__ import annotations

from collections.abc import Collection

HAS = {"observations", "actions", "terminals", "qpos", "qvel"}
LACKS = {"rewards", "timeouts", "next_observations"}
FOUND = (
    "an OGBench file: terminals only mark where recordings end, rewards are 0, the simulator's state"
    " is left out"
)


def recognised(names: Collection[str]) -> bool:
    """Whether arrays of these names are a file of OGBench with the simulator's state."""
    return set(names) >= HAS and not LACKS & set(names)
