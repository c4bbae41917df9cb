"""rejax: PPO on a gymnax task; every round is a run of its own."""

from __future__ import annotations

import jax
import rejax
from rejax_returns import mean_return
from serve import serve, settings

s = settings()
algorithm = rejax.PPO.create(
    env=s["task"],
    num_envs=s["num_envs"],
    num_steps=s["unroll_length"],
    num_minibatches=s["num_minibatches"],
    num_epochs=s["num_epochs"],
    learning_rate=s["learning_rate"],
    gamma=s["gamma"],
    gae_lambda=s["gae_lambda"],
    clip_eps=s["clip_ratio"],
    vf_coef=s["value_coef"],
    ent_coef=s["entropy_coef"],
    max_grad_norm=s["max_grad_norm"],
    agent_kwargs={"hidden_layer_sizes": tuple(s["hidden"]), "activation": "tanh"},
)
iterations = s["round_steps"] // (s["num_envs"] * s["unroll_length"])


@jax.jit
def run(key):
    state = algorithm.init_state(key)
    return jax.lax.fori_loop(0, iterations, lambda _, x: algorithm.train_iteration(x), state)


returns = mean_return(algorithm, s["eval_episodes"])


rounds, state = 0, None


def train() -> dict:
    global rounds, state
    state = jax.block_until_ready(run(jax.random.PRNGKey(s["seed"] + rounds)))
    rounds += 1
    return {"steps": iterations * s["num_envs"] * s["unroll_length"]}


serve(("rejax", "jax", "gymnax"), train, lambda: returns(state))
