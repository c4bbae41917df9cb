"""Settings of learners that refine a frozen policy."""

from __future__ import annotations

from jaxrl.learners.off_policy import sac, td3
from jaxrl.learners.on_policy import ppo

from .preset import Preset

# For experiments/residual.py, on any task. The first correction is 0.
RESIDUAL: dict[str, Preset] = {
    "ppo": Preset(
        256 * 32 * 30,
        ppo.Config(
            num_envs=256,
            unroll_length=32,
            num_minibatches=8,
            shuffle="unrolls",
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

# Tasks whose residual needs this many times the steps above.
LONGER = {"peg_insertion_3d": 2, "assembly": 2, "push_t": 2}
