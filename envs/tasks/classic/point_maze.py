"""A point mass in a maze is told where to go: the goal-conditioned task, in plain JAX."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import drawing
from envs.types import Box, State, check_range, first_state

# '#' is wall, '.' is free and '!' is free but costs; a cell is 1 m wide; the middle of the maze
# is the origin.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "open": (
        "#######",
        "#.....#",
        "#.....#",
        "#.....#",
        "#######",
    ),
    "u": (
        "#####",
        "#...#",
        "###.#",
        "#...#",
        "#####",
    ),
    "toll": (
        "#######",
        "#.!!!.#",
        "#.###.#",
        "#.###.#",
        "#.....#",
        "#######",
    ),
    "medium": (
        "########",
        "#..##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#..#",
        "########",
    ),
    "large": (
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#...#",
        "############",
    ),
}
SLACK = 1e-4  # m: touching a wall at the side must not block sliding along it


@struct.dataclass
class MazeData:
    position: jax.Array  # [2] m
    velocity: jax.Array  # [2] m/s
    goal: jax.Array  # [2] m


@struct.dataclass
class PointMaze:
    """obs: {"obs": [4] position and velocity, "goal": [2] position}. action [2] in [-1, 1].

    Start and goal are drawn from different free cells that do not cost. Walls are exact: a step moves along
    x, then along y, each as far as the first wall on the way, at any speed.

    For hindsight relabelling, `achieved_goal(obs)` is what an observation reached,
    `goal_reward(achieved, goal)` what that is worth for another goal, and
    `goal_terminates(achieved, goal)` whether the episode ends there. All broadcast.

    A layout with '!' gives the signal `cost`: 1 for a step that ends in such a cell. In "toll" the
    way along the top crosses three of them, and the free way around is 6 m longer.

    Attributes:
      mass, damping, force: kg, N s/m, N per unit of action (`control="force"`).
      max_speed: m/s along either axis; the speed per unit of action (`control="velocity"`).
      radius: m that the point keeps from every wall; at most 0.49.
      goal_radius: m from the goal that count as there.
      start_noise: m around the middle of a cell where starts and goals lie; at most 0.5 - radius.
      dt: s per step.
      layout: a name in `LAYOUTS` or rows of '#', '.' and '!' with a closed border.
      control: "force" or "velocity".
      reward: "sparse" (1 at the goal, else 0) or "dense" (exp of minus the distance).
      continuing: the episode goes on at the goal, else it terminates there.

    Raises:
      ValueError: unknown `layout`, `control` or `reward`, a malformed layout, or a number out of
        range.
    """

    mass: float = 1.0
    damping: float = 2.0
    force: float = 4.0
    max_speed: float = 2.0
    radius: float = 0.1
    goal_radius: float = 0.3
    start_noise: float = 0.25
    dt: float = 0.1
    layout: str | tuple[str, ...] = struct.field(pytree_node=False, default="u")
    control: str = struct.field(pytree_node=False, default="force")
    reward: str = struct.field(pytree_node=False, default="sparse")
    continuing: bool = struct.field(pytree_node=False, default=False)

    def __post_init__(self):
        for name, allowed in (("control", ("force", "velocity")), ("reward", ("sparse", "dense"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are {allowed}")
        check_layout(self.layout)
        check_range(self, 0.0, math.inf, "mass", "dt", "goal_radius", above=True)
        check_range(self, 0.0, math.inf, "damping", "force", "max_speed")
        check_range(self, 0.0, 0.49, "radius")
        if isinstance(self.radius, (int, float)):
            check_range(self, 0.0, 0.5 - self.radius, "start_noise")

    @property
    def walls(self) -> np.ndarray:
        """[rows, columns] bool, the first row on top."""
        return self._cells("#")

    @property
    def costly(self) -> np.ndarray:
        """[rows, columns] bool: where the signal `cost` is 1."""
        return self._cells("!")

    def _cells(self, kind: str) -> np.ndarray:
        rows = LAYOUTS[self.layout] if isinstance(self.layout, str) else self.layout
        return np.array([[cell == kind for cell in row] for row in rows])

    @property
    def observation_space(self) -> dict[str, Box]:
        rows, columns = self.walls.shape
        half = (columns / 2, rows / 2)
        low, high = tuple(-x for x in half), half
        any_speed = (np.inf, np.inf)
        return {
            "obs": Box((4,), low + tuple(-x for x in any_speed), high + any_speed),
            "goal": Box((2,), low, high),
        }

    @property
    def action_space(self) -> Box:
        return Box((2,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_start, k_goal, k_noise = jax.random.split(key, 3)
        xs, ys = cell_centres(self.walls)
        row, column = np.nonzero(~self.walls & ~self.costly)
        cells = jnp.asarray(np.stack([xs[column], ys[row]], axis=1), jnp.float32)  # [free, 2]
        start = jax.random.randint(k_start, (), 0, len(cells))
        goal = (start + jax.random.randint(k_goal, (), 1, len(cells))) % len(cells)
        noise = self.start_noise * jax.random.uniform(k_noise, (2, 2), minval=-1.0)
        data = MazeData(cells[start] + noise[0], jnp.zeros(2), cells[goal] + noise[1])
        signals = jax.tree.map(jnp.zeros_like, self._signals(data))
        return first_state(data, _obs(data), self._metrics(data), signals)

    def step(self, state: State, action: jax.Array) -> State:
        data = state.data
        action = jnp.clip(action, -1.0, 1.0)
        if self.control == "velocity":
            velocity = self.max_speed * action
        else:  # damping is implicit: stable for every mass
            pushed = data.velocity + self.dt * self.force * action / self.mass
            velocity = pushed / (1.0 + self.dt * self.damping / self.mass)
            velocity = jnp.clip(velocity, -self.max_speed, self.max_speed)
        xs, ys = cell_centres(self.walls)
        x, y = data.position
        x, hit_x = self._slide(x, y, self.dt * velocity[0], xs, ys, self.walls)
        y, hit_y = self._slide(y, x, self.dt * velocity[1], ys, xs, self.walls.T)
        data = data.replace(
            position=jnp.stack([x, y]),
            velocity=jnp.where(jnp.stack([hit_x, hit_y]), 0.0, velocity),
        )
        obs = _obs(data)
        achieved = self.achieved_goal(obs)
        return state.next(
            data=data,
            obs=obs,
            reward=self.goal_reward(achieved, data.goal),
            terminated=self.goal_terminates(achieved, data.goal),
            metrics=self._metrics(data),
            signals=self._signals(data),
        )

    def achieved_goal(self, obs: dict[str, jax.Array]) -> jax.Array:
        """The goal that an observation [...] reached: its position. [..., 2]"""
        return obs["obs"][..., :2]

    def goal_reward(self, achieved: jax.Array, goal: jax.Array) -> jax.Array:
        """The reward of being at `achieved` [..., 2] when `goal` [..., 2] was asked for. [...]"""
        distance = jnp.linalg.norm(achieved - goal, axis=-1)
        if self.reward == "dense":
            return jnp.exp(-distance)
        return (distance <= self.goal_radius).astype(jnp.float32)

    def goal_terminates(self, achieved: jax.Array, goal: jax.Array) -> jax.Array:
        """Whether being at `achieved` [..., 2] ends an episode with this `goal`. [...] bool"""
        distance = jnp.linalg.norm(achieved - goal, axis=-1)
        return (distance <= self.goal_radius) & (not self.continuing)

    num_modes = 1  # ways in which `expert` goes about it

    def expert(self, obs: dict[str, jax.Array], mode: jax.Array) -> jax.Array:
        """The action that follows a shortest way, cell by cell (`control="force"`). [2]"""
        centres, following = (jnp.asarray(x) for x in shortest_ways(self.walls))
        position, velocity, goal = obs["obs"][:2], obs["obs"][2:4], obs["goal"]
        cell_of = lambda x: jnp.argmin(jnp.abs(centres - x).max(1))
        here, there = cell_of(position), cell_of(goal)
        target = jnp.where(here == there, goal, centres[following[here, there]])
        return jnp.clip(2.0 * (target - position) - 0.7 * velocity, -1.0, 1.0)

    def render(self, state: State, width: int = 480, height: int = 480) -> np.ndarray:
        """The maze from above, as large as it fits. [height, width, 3] uint8"""
        return np.asarray(self.draw(state, width, height))

    def draw(self, state: State, width: int, height: int) -> jax.Array:
        """`render`, in JAX. The point is at least two pixels wide."""
        walls = self.walls
        rows, columns = walls.shape
        x, y, scale = drawing.grid(width, height, (columns / 2, rows / 2))
        row = np.floor(rows / 2 - y).astype(int)
        column = np.floor(columns / 2 + x).astype(int)
        inside = ((0 <= row) & (row < rows))[:, None] & ((0 <= column) & (column < columns))
        at = np.clip(row, 0, rows - 1)[:, None], np.clip(column, 0, columns - 1)
        image = np.where(
            (walls[at] | ~inside)[..., None], (72.0, 80.0, 92.0), (236.0, 238.0, 241.0)
        )
        image = np.where((self.costly[at] & inside)[..., None], (245.0, 214.0, 160.0), image)
        data = state.data
        for centre, radius, colour in (
            (data.goal, self.goal_radius, (150.0, 210.0, 160.0)),
            (data.goal, 0.06, (40.0, 140.0, 70.0)),
            (data.position, jnp.maximum(self.radius, 1.0 / scale), (230.0, 120.0, 40.0)),
        ):
            image = drawing.painted(image, drawing.disc(x, y, centre, radius), scale, colour)
        return drawing.as_bytes(image)

    def _metrics(self, data: MazeData) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(data.position - data.goal)
        success = (distance <= self.goal_radius).astype(jnp.float32)
        return {"success": success, "distance": distance}

    def _signals(self, data: MazeData) -> dict[str, jax.Array]:
        if not self.costly.any():
            return {}
        rows, columns = self.costly.shape
        x, y = data.position
        row, column = jnp.floor(rows / 2 - y), jnp.floor(columns / 2 + x)
        here = jnp.asarray(self.costly)[row.astype(int), column.astype(int)]
        return {"cost": here.astype(jnp.float32)}

    def _slide(self, p, q, delta, along, across, walls) -> tuple[jax.Array, jax.Array]:
        """Moves `p` by `delta` up to the first wall; `q` is the other coordinate.

        along [C] and across [R] are cell centres, walls is [R, C].
        Returns the new coordinate and whether a wall stopped it.
        """
        reach = 0.5 + self.radius
        beside = jnp.abs(across - q) < reach - SLACK  # [R] rows the point is abreast of
        blocked = (walls & beside[:, None]).any(axis=0)  # [C]
        low = jnp.max(jnp.where(blocked & (along < p), along + reach, -jnp.inf))
        high = jnp.min(jnp.where(blocked & (along > p), along - reach, jnp.inf))
        free = p + delta
        stopped = jnp.clip(free, low, high)
        return stopped, stopped != free


def _obs(data: MazeData) -> dict[str, jax.Array]:
    return {"obs": jnp.concatenate([data.position, data.velocity]), "goal": data.goal}


def cell_centres(walls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x of every column and y of every row, y upward."""
    rows, columns = walls.shape
    return np.arange(columns) - (columns - 1) / 2, (rows - 1) / 2 - np.arange(rows)


def shortest_ways(walls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centres of the free cells [C, 2] and, from each to each, the next one to go to [C, C]."""
    xs, ys = cell_centres(walls)
    row, column = np.nonzero(~walls)
    near = np.abs(row[:, None] - row) + np.abs(column[:, None] - column) == 1
    following = np.tile(np.arange(len(row))[:, None], len(row))
    for goal in range(len(row)):
        seen, queue = {goal}, deque([goal])
        while queue:
            cell = queue.popleft()
            for neighbour in np.flatnonzero(near[cell]):
                if neighbour not in seen:
                    seen.add(neighbour)
                    following[neighbour, goal] = cell
                    queue.append(neighbour)
    return np.stack([xs[column], ys[row]], 1).astype(np.float32), following


def check_layout(layout: Any) -> None:
    """Raises ValueError unless `layout` is a name or a closed rectangle with two free cells."""
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: allowed are {sorted(LAYOUTS)} or rows of '#.!'")
        return
    rows = layout if isinstance(layout, tuple) and all(isinstance(r, str) for r in layout) else ()
    closed = rows and all(len(r) == len(rows[0]) and r[:1] == r[-1:] == "#" for r in rows)
    if not closed or set(rows[0] + rows[-1]) != {"#"} or set("".join(rows)) - set("#.!"):
        raise ValueError(
            f"layout={layout!r}: rows must be equally long, made of '#', '.' and '!', '#' all around"
        )
    if "".join(rows).count(".") < 2:
        raise ValueError(f"layout={layout!r}: needs at least two free cells, a start and a goal")
