"""Settings of every script; README.md shows what those of PPO, SAC and TD3 reach.

Small batches of environments on purpose: seeds run side by side, so five seeds of 64
environments keep a machine as busy as 320 and learn from far fewer steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.off_policy import sac, td3
from jaxrl.learners.on_policy import ppo


@dataclass(frozen=True)
class Preset:
    total_steps: int  # per seed
    config: Any
    env: dict[str, Any] = field(default_factory=dict)  # overrides of `envs.make`


FAST = {"physics": "fast"}

LOCOMOTION = ppo.Config(
    num_envs=64,
    unroll_length=64,
    num_minibatches=8,
    num_epochs=8,
    learning_rate=3e-4,
    lr_schedule="linear",
    distribution="normal",
    activation="tanh",
    normalize_reward=True,
)
STEPS = 64 * 64  # of one iteration

PPO: dict[str, Preset] = {
    "cartpole_swingup": Preset(
        512 * 32 * 500,
        ppo.Config(num_envs=512, unroll_length=32, learning_rate=1e-3, entropy_coef=1e-3),
    ),
    "point_maze": Preset(
        STEPS * 100, ppo.Config(num_envs=64, unroll_length=64, num_minibatches=8, num_epochs=8)
    ),
    "pendulum_swingup": Preset(STEPS * 100, LOCOMOTION.replace(learning_rate=1e-3)),
    "inverted_pendulum": Preset(STEPS * 100, LOCOMOTION, FAST),
    "inverted_double_pendulum": Preset(STEPS * 250, LOCOMOTION, FAST),
    "reacher": Preset(STEPS * 400, LOCOMOTION, FAST),
    "pusher": Preset(STEPS * 300, LOCOMOTION, FAST),
    "swimmer": Preset(
        STEPS * 300,
        LOCOMOTION.replace(num_envs=16, unroll_length=256, gamma=0.999, gae_lambda=0.98),
        FAST,
    ),
    "hopper": Preset(STEPS * 500, LOCOMOTION.replace(num_envs=128, num_minibatches=16), FAST),
    "half_cheetah": Preset(STEPS * 750, LOCOMOTION, FAST),
    "walker2d": Preset(STEPS * 750, LOCOMOTION, FAST),
    # Wide noise costs it more than it can win at first, and it learns to stand still.
    "ant": Preset(STEPS * 500, LOCOMOTION.replace(init_log_std=-1.0), FAST),
    "humanoid": Preset(STEPS * 500, LOCOMOTION.replace(init_log_std=-1.0), FAST),
}

OFF_POLICY = {
    "num_envs": 32,
    "unroll_length": 1,
    "updates_per_step": 4,  # one per 8 environment steps: what two CPU cores can afford
    # As updates are few, they are large: three to four times the usual.
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.02,
    "batch_size": 256,
    "replay_size": 320_000,
    "learning_starts": 6_400,
    "normalize_obs": True,
    "actor_hidden": (128, 128),
    "critic_hidden": (128, 128),
}

SWINGUP = OFF_POLICY | {"replay_size": 32_000, "learning_starts": 1_600}

SAC: dict[str, Preset] = {
    "pendulum_swingup": Preset(32_000, sac.Config(**SWINGUP, alpha_lr=3e-3)),
    "inverted_double_pendulum": Preset(
        48_000, sac.Config(**(OFF_POLICY | {"replay_size": 48_000, "learning_starts": 1_600})), FAST
    ),
    "hopper": Preset(320_000, sac.Config(**OFF_POLICY), FAST),
    "half_cheetah": Preset(1_024_000, sac.Config(**OFF_POLICY), FAST),
}

TD3: dict[str, Preset] = {
    task: Preset(min(preset.total_steps, 320_000), td3.Config(**OFF_POLICY), preset.env)
    for task, preset in SAC.items()
}
# It first swings up by chance, which a little noise does not.
TD3["pendulum_swingup"] = Preset(32_000, td3.Config(**SWINGUP, noise_max=1.2))

# The base of the refinement road: a clone of 50 noisy demonstrations that succeeds in about every
# second episode.
REFINE: dict[str, Preset] = {
    "peg_insertion": Preset(5_000, imitation.Config(learning_rate=5e-4), {"hole_noise": 0.005}),
    "peg_insertion_3d": Preset(5_000, imitation.Config(), {"hole_noise": 0.003}),
    "pick_place": Preset(5_000, imitation.Config(horizon=8, execute=4)),
}

# On a frozen base (experiments/residual.py): whatever the task, they begin with no correction.
RESIDUAL: dict[str, Preset] = {
    "ppo": Preset(
        256 * 32 * 30,
        ppo.Config(
            num_envs=256,
            unroll_length=32,
            num_minibatches=8,
            num_epochs=4,
            learning_rate=1e-3,
            lr_schedule="linear",
            gamma=0.99,
            actor_hidden=(128, 128),
            critic_hidden=(128, 128),
            activation="tanh",
            distribution="normal",
            init_log_std=-1.0,
            actor_out_scale=0.0,
        ),
    ),
    "sac": Preset(
        16_000,
        sac.Config(
            num_envs=16,
            updates_per_step=8,
            batch_size=256,
            replay_size=96_000,
            learning_starts=3_200,
            actor_starts=6_400,
            n_step=3,
            num_critics=5,
            layer_norm=True,
            actor_q="mean",
            prior_ratio=0.5,
            backup_entropy=False,
            init_alpha=0.01,
            target_entropy=-0.5,
            normalize_obs=True,
            actor_hidden=(128, 128),
            critic_hidden=(128, 128),
            actor_out_scale=0.0,
        ),
    ),
    "td3": Preset(1_000_000, td3.Config(actor_out_scale=0.0, prior_ratio=0.5)),
}

# Bases whose residual takes this many times the steps above.
LONGER = {"peg_insertion_3d": 2}

RLPD: dict[str, Preset] = {
    "point_maze_medium": Preset(
        64_000,
        sac.Config(
            num_envs=16,
            updates_per_step=8,
            batch_size=128,
            replay_size=96_000,
            learning_starts=1_600,
            actor_hidden=(128, 128),
            critic_hidden=(128, 128),
            target_entropy=-0.5,
            num_critics=5,
            layer_norm=True,
            actor_q="mean",
            prior_ratio=0.5,
            # As RLPD does in mazes: -1 a step until the goal, and no reward for randomness. With
            # 1 at the goal and nothing elsewhere, an episode that goes on earns entropy and none
            # learns to end it.
            reward_shift=-1.0,
            backup_entropy=False,
            init_alpha=0.1,
        ),
    )
}
RLPD |= {
    task: Preset(
        160_000,
        SAC[task].config.replace(num_critics=5, layer_norm=True, actor_q="mean", prior_ratio=0.5),
        SAC[task].env,
    )
    for task in ("hopper", "half_cheetah")
}
