"""MuJoCo XLA as tasks use it, and every repair or speed-up of it on a CPU."""

from envs import gl as gl  # first: MuJoCo must not read MUJOCO_GL when MJX imports it
