"""Environment transforms: each takes an environment and returns an environment."""

from envs.transforms.action_repeat import action_repeat
from envs.transforms.base import Transform, on_task
from envs.transforms.curriculum import curriculum
from envs.transforms.delay import delay
from envs.transforms.history import history
from envs.transforms.imitate import imitate
from envs.transforms.latent import latent
from envs.transforms.noise import noise
from envs.transforms.pixels import pixels
from envs.transforms.push import push
from envs.transforms.randomise import randomise, scale_physics
from envs.transforms.residual import residual
from envs.transforms.time_limit import time_limit

__all__ = [
    "Transform",
    "action_repeat",
    "curriculum",
    "delay",
    "history",
    "imitate",
    "latent",
    "noise",
    "on_task",
    "pixels",
    "push",
    "randomise",
    "residual",
    "scale_physics",
    "time_limit",
]
