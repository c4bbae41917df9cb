"""SAC, TD3, CrossQ, SimbaV2, BRO, RLPD, DrQ, FastTD3 and FastSAC, by task."""

from __future__ import annotations

from typing import Any

from jaxrl.learners.off_policy import bro, crossq, drq, sac, simbav2, td3

from .preset import BALANCED, FAST, Preset

OFF_POLICY = {
    "num_envs": 32,
    "unroll_length": 1,
    "updates_per_step": 4,  # one per 8 environment steps: what two CPU cores can afford
    # Updates are few, so rates are three to four times the usual.
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

# For scores in Gymnasium's own tasks after 320,000 steps.
SAC_320K: dict[str, Preset] = {
    task: Preset(320_000, sac.Config(**OFF_POLICY), BALANCED) for task in ("half_cheetah", "hopper")
}

TD3: dict[str, Preset] = {
    task: Preset(min(preset.total_steps, 320_000), td3.Config(**OFF_POLICY), preset.env)
    for task, preset in SAC.items()
}
# The first swing-up happens by chance, which needs much noise.
TD3["pendulum_swingup"] = Preset(32_000, td3.Config(**SWINGUP, noise_max=1.2))

# Not tuned: the shape of SAC's presets, with what the method itself needs. CrossQ's authors have critics
# of 2,048, which two CPU cores cannot afford.
CROSSQ_SHAPE = {
    "updates_per_step": 6,  # a multiple of the delay of the actor
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "normalize_obs": False,  # the networks normalise their inputs
    "critic_hidden": (256, 256),
}
SIMBAV2_SHAPE = {
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "alpha_lr": 3e-4,
    "actor_hidden": (128,),
    "critic_hidden": (128, 128),
}
BRO_SHAPE = {
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "actor_hidden": (128,),
    "critic_hidden": (128, 128),
    "reset_after": (),  # resets cure overfitting by many updates a step; here one has eight steps
}


def in_shape(preset: Preset, config: Any, changes: dict[str, Any]) -> Preset:
    """SAC's `preset` for another learner, whose `config` keeps what `changes` does not name."""
    sizes = {name: getattr(preset.config, name) for name in OFF_POLICY}
    return Preset(preset.total_steps, config.replace(**(sizes | changes)), preset.env)


CROSSQ = {task: in_shape(p, crossq.Config(), CROSSQ_SHAPE) for task, p in SAC.items()}
SIMBAV2 = {task: in_shape(p, simbav2.Config(), SIMBAV2_SHAPE) for task, p in SAC.items()}
BRO = {task: in_shape(p, bro.Config(), BRO_SHAPE) for task, p in SAC.items()}

# The learners of claims/off_policy/critics.py, for any of Gymnasium's tasks.
CRITICS = {
    "sac": Preset(40_960, sac.Config(**OFF_POLICY), BALANCED),
    "td3": Preset(40_960, td3.Config(**OFF_POLICY), BALANCED),
}
CRITICS["crossq"] = in_shape(CRITICS["sac"], crossq.Config(), CROSSQ_SHAPE)
CRITICS["simbav2"] = in_shape(CRITICS["sac"], simbav2.Config(), SIMBAV2_SHAPE)

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
            # As RLPD does in mazes: -1 per step until the goal, and no entropy in the target. With
            # 1 at the goal and 0 elsewhere, long episodes earn entropy, and no policy learns to end
            # them.
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

# Made for a GPU. The range of values holds every discounted return of the task. The run in
# results/fast_td3.json has the same range with an eighth of the environments and smaller networks.
FAST_TD3: dict[str, Preset] = {
    "half_cheetah": Preset(10_240_000, td3.FAST.replace(v_min=-100.0, v_max=400.0), FAST)
}
FAST_SAC: dict[str, Preset] = {"half_cheetah": Preset(20_480_000, sac.FAST, FAST)}

# From pixels alone: 32 x 32, gray, two frames. A small encoder, for two CPU cores.
DRQ: dict[str, Preset] = {
    "pixels/pendulum_swingup": Preset(
        32_000,
        drq.Config(
            **SWINGUP
            | {
                "batch_size": 128,
                "normalize_obs": False,
                "actor_hidden": (64, 64),
                "critic_hidden": (64, 64),
            },
            alpha_lr=3e-3,
            actor_obs=("pixels",),
            critic_obs=("pixels",),
            channels=(8, 16, 16),
            features=32,
        ),
        {"size": 32, "gray": True, "frames": 2},
    )
}
