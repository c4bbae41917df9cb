"""rejax: SAC on a gymnax task."""

from __future__ import annotations

import jax
import rejax
from rejax_returns import mean_return
from serve import serve, settings

s = settings()
algorithm = rejax.SAC.create(
    env=s["task"],
    num_envs=s["num_envs"],
    num_epochs=s["updates_per_step"],
    learning_rate=s["learning_rate"],
    gamma=s["gamma"],
    polyak=1 - s["tau"],
    buffer_size=s["replay_size"],
    fill_buffer=s["learning_starts"],
    batch_size=s["batch_size"],
    hidden_layer_sizes=tuple(s["hidden"]),
)
iterations = s["round_steps"] // s["num_envs"]


@jax.jit
def advance(state):
    return jax.lax.fori_loop(0, iterations, lambda _, x: algorithm.train_iteration(x), state)


returns = mean_return(algorithm, s["eval_episodes"])


state = algorithm.init_state(jax.random.PRNGKey(s["seed"]))
steps = 0


def train() -> dict:
    global state, steps
    state = jax.block_until_ready(advance(state))
    steps += s["round_steps"]
    learned = max(0, min(s["round_steps"], steps - s["learning_starts"]))
    return {"steps": s["round_steps"], "updates": learned // s["num_envs"] * s["updates_per_step"]}


serve(("rejax", "jax", "gymnax"), train, lambda: returns(state))
