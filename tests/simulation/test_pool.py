"""A restart state is all a task needs: nothing else carries over from the last episode.

`vectorize(..., resets="pool")` starts an episode by putting the `data`, `obs` and `info`
of an earlier `reset` into an environment that has been stepped. What follows must be,
to the bit, what follows the state which that `reset` returned.
"""

import jax
import pytest
from toys import assert_trees_equal

import envs
from envs.types import sample_space

pytestmark = pytest.mark.usefixtures("quick_compile")

WARM_UP, STEPS, N = 3, 10, 2
QUICK = ("cartpole_swingup", "pendulum_swingup", "point_maze")  # the others compile for long
EVERY_TASK = [
    name if name.startswith(QUICK) else pytest.param(name, marks=pytest.mark.slow)
    for name in envs.names()
]


def build(name):
    """The task at its quickest physics, its clock set to ring after the warm-up."""
    try:
        return envs.make(name, physics="fast", time_limit=WARM_UP)
    except ValueError:  # no MJX task
        return envs.make(name, time_limit=WARM_UP)


@pytest.mark.parametrize("name", EVERY_TASK)
def test_a_restarted_environment_is_a_reset_one(name):
    env = build(name)
    vec = envs.vectorize(env, N, resets="pool")
    keys = jax.random.split(jax.random.key(0), WARM_UP + STEPS)
    draw = lambda key: jax.vmap(lambda k: sample_space(env.action_space, k))(
        jax.random.split(key, N)
    )
    actions = jax.vmap(draw)(keys)  # [T, N, ...]

    @jax.jit
    def warm_up(state):
        """To the step at whose end the clock restarts every environment."""
        return jax.lax.scan(lambda s, a: (vec.step(s, a), None), state, actions[:WARM_UP])[0]

    @jax.jit
    def follow(state):
        """The next states [STEPS, N], not restarted whatever the clock says."""
        step = lambda s, a: (jax.vmap(env.step)(s, a),) * 2
        return jax.lax.scan(step, state, actions[WARM_UP:])[1]

    stepped = warm_up(vec.reset(jax.random.key(1)))
    assert stepped.done.all()
    # `restart` holds whole states as `reset` returned them, with their own reward and flags.
    assert not stepped.restart.truncated.any()
    assert_trees_equal(follow(stepped.env), follow(stepped.restart))
