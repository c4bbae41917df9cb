"""What planning a chunk of actions costs, against the physics until the next plan.

    python experiments/bench/plans.py
    python experiments/bench/plans.py --env push_t --num-envs 4096

One plan for every environment, by each head, against `execute` control steps of the same
environments with random actions. With staggered episodes that work is spread over the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import tyro
from bench import Args as BenchArgs
from bench import Run, compiled, interleave, random_stepping, ratio, spread, write

import envs
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.report import terminal
from jaxrl.run import runtime

HEADS = ("gaussian", "flow", "diffusion")


@dataclass
class Args(BenchArgs):
    env: str = "peg_insertion"
    num_envs: int = 1024
    config: imitation.Config = field(default_factory=imitation.Config)  # its head is ignored


def main(args: Args) -> dict[str, float]:
    runtime.setup(1)
    env, c = envs.make(args.env), args.config
    k_seen, k_init, k_plan = jax.random.split(jax.random.key(args.seed), 3)
    seen = jax.random.normal(k_seen, (args.num_envs, c.history, env.observation_space.shape[0]))
    keys = jax.random.split(k_plan, args.num_envs)

    def planner(name: str):
        head = imitation.head_of(c.replace(head=name), env.action_space.shape[0])
        params = head.init(k_init, seen[0])
        plan = jax.vmap(lambda obs, key: head.sample(params, obs, key, True))
        return compiled(jax.jit(plan), seen, keys)

    stepping = Run(random_stepping(env, args.num_envs, c.execute), seed=args.seed)
    planners = {name: planner(name) for name in HEADS}
    contenders = {"physics": stepping}
    for name, (plan, *_) in planners.items():
        contenders[name] = lambda plan=plan: plan(seen, keys)
    seconds = interleave(contenders, args.rounds)
    rows = [
        {
            "what": "physics",
            "seconds": seconds["physics"],
            "steps_per_second": stepping.steps / seconds["physics"],
            "compile_seconds": stepping.compile_seconds,
            "memory_bytes": stepping.memory_bytes,
        }
    ]
    rows += [
        {
            "what": name,
            "seconds": seconds[name],
            "plans_per_second": args.num_envs / seconds[name],
            "compile_seconds": compile_seconds,
            "memory_bytes": memory_bytes,
        }
        for name, (_, compile_seconds, memory_bytes) in planners.items()
    ]
    ratios = {f"{name}_over_physics": ratio(seconds[name], seconds["physics"]) for name in HEADS}
    write(args.out, "plans", args, rows, ratios)
    terminal.table(
        f"{args.env}: {args.num_envs:,} plans of {c.horizon} actions, {c.execute} control steps",
        ["", "milliseconds", "over physics", "compile s", "MB"],
        [
            [
                r["what"],
                spread(r["seconds"] * 1e3),
                terminal.short(ratio(r["seconds"], seconds["physics"])),
                f"{r['compile_seconds']:.1f}",
                f"{r['memory_bytes'] / 1e6:,.0f}",
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args, config=(tyro.conf.OmitArgPrefixes,)))
