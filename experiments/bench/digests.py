"""Records what every learner computes, bit for bit, and compares two commits on one machine.

    python experiments/bench/digests.py --out before.json
    python experiments/bench/digests.py --out after.json --against before.json

Each entry trains one learner for 20 iterations and hashes every array of its final state. A
comparison passes if every array of the first record also occurs in the second, under any name.
Digests depend on the processor and the jaxlib version, so no record is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import jax
import numpy as np

import envs
from envs.transforms import residual
from jaxrl.run import runtime

ITERATIONS = 20


def entries(env, dataset) -> dict:
    """Learners by name, each made by a function without arguments."""
    from jaxrl.learners.imitation import chunks as imitation
    from jaxrl.learners.off_policy import dsac, mdpo, pmoe, sac, td3
    from jaxrl.learners.offline import bc, iql, td3_bc
    from jaxrl.learners.on_policy import mdpo as on_mdpo
    from jaxrl.learners.on_policy import ppo

    small = dict(actor_hidden=(16, 16), critic_hidden=(16, 16))
    onp = dict(num_envs=8, unroll_length=16, num_minibatches=2, num_epochs=2, **small)
    offp = dict(num_envs=4, unroll_length=2, updates_per_step=4, batch_size=32, **small)
    offp |= dict(replay_size=4000, learning_starts=40)
    off = dict(updates_per_step=4, batch_size=32, **small)
    clone = dict(
        updates_per_step=4, batch_size=16, hidden=(16, 16), horizon=4, execute=2, history=2
    )
    cartpole = lambda: envs.make("gymnax/CartPole-v1")

    def base():
        learner = imitation.make(env, imitation.Config(**clone), dataset)
        return learner.policy(jax.jit(learner.init)(jax.random.key(3)))

    return {
        "ppo": lambda: ppo.make(env, ppo.Config(**onp, stagger=True, normalize_reward=True)),
        "ppo_gru": lambda: ppo.make(
            env,
            ppo.Config(
                **onp, gru_width=8, value_clip=0.2, lr_schedule="adaptive", entropy_coef=0.01
            ),
        ),
        "ppo_normal": lambda: ppo.make(
            env, ppo.Config(**onp, distribution="normal", resets="fresh")
        ),
        "ppo_mdpo": lambda: on_mdpo.make(env, on_mdpo.Config(**onp, schedule_steps=1e4)),
        "ppo_discrete": lambda: ppo.make(cartpole(), ppo.Config(**onp, entropy_coef=0.01)),
        "residual": lambda: ppo.make(
            residual(env, base(), 0.3), ppo.Config(**onp, actor_out_scale=0.0)
        ),
        "sac": lambda: sac.make(
            env, sac.Config(**offp, n_step=2, normalize_obs=True, actor_starts=80, stagger=True)
        ),
        "sac_prior": lambda: sac.make(
            env,
            sac.Config(**offp, num_critics=4, layer_norm=True, prior_ratio=0.5, policy_delay=2),
            dataset,
        ),
        "td3": lambda: td3.make(env, td3.Config(**offp, noise_max=0.4)),
        "td3_atoms": lambda: td3.make(
            env, td3.Config(**offp, num_atoms=11, target_actor=False, weight_decay=0.1)
        ),
        "dsac": lambda: dsac.make(env, dsac.Config(**offp)),
        "mdpo": lambda: mdpo.make(env, mdpo.Config(**offp, refresh_every=7.0)),
        "pmoe": lambda: pmoe.make(env, pmoe.Config(**offp)),
        "bc": lambda: bc.make(
            env,
            bc.Config(updates_per_step=4, batch_size=32, actor_hidden=(16,), loss="gaussian"),
            dataset,
        ),
        "td3_bc": lambda: td3_bc.make(env, td3_bc.Config(**off), dataset.weighted(0.5)),
        "iql": lambda: iql.make(env, iql.Config(**off, n_step=2, schedule_steps=100.0), dataset),
        "imitation": lambda: imitation.make(env, imitation.Config(**clone), dataset),
        "imitation_tokens": lambda: imitation.make(
            env,
            imitation.Config(
                **clone, trunk="transformer", head="gaussian", width=8, layers=1, attention_heads=2
            ),
            dataset.weighted(0.5),
        ),
    }


def arrays(tree) -> list[str]:
    """A short hash of every array but those of the config, sorted."""
    tree = tree.replace(config=None)
    found = []
    for x in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        found.append(hashlib.sha256(f"{x.shape}{x.dtype}".encode() + x.tobytes()).hexdigest()[:12])
    return sorted(found)


def missing(old: list[str], new: list[str]) -> int:
    left = list(new)
    gone = 0
    for x in old:
        if x in left:
            left.remove(x)
        else:
            gone += 1
    return gone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    runtime.setup(2)
    from jaxrl.data.recording import record
    from jaxrl.learners.off_policy import sac
    from jaxrl.run.train import train

    env = envs.make("pendulum_swingup")
    actor = sac.make(
        env, sac.Config(num_envs=1, replay_size=8, actor_hidden=(16,), critic_hidden=(16,))
    )
    policy = actor.policy(actor.init(jax.random.key(1)))
    dataset = record(policy, env, 8, jax.random.key(2))
    found, worst = {}, 0
    before = json.loads(args.against.read_text()) if args.against else {}
    for name, make in entries(env, dataset).items():
        if args.only and name not in args.only:
            continue
        for devices in (1, 2):
            learner = make()
            seeds = devices if learner.sharing is None else 1
            steps = ITERATIONS * learner.steps_per_iteration
            result = train(
                learner,
                steps,
                seeds=seeds,
                num_evals=0,
                eval_episodes=2,
                devices=devices,
                quiet=True,
            )
            label = f"{name}/{devices}"
            found[label] = arrays(result.state)
            lost = missing(before.get(label, []), found[label])
            worst = max(worst, lost)
            print(
                f"{label:20s} {len(found[label]):3d} arrays" + f", {lost} differ" * bool(before),
                flush=True,
            )
    args.out.write_text(json.dumps(found, indent=0))
    return int(worst > 0)


if __name__ == "__main__":
    raise SystemExit(main())
