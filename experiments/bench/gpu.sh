#!/usr/bin/env bash
# The benchmarks on a machine with an NVIDIA GPU and jax installed, in about nine minutes.
#
#     bash experiments/bench/gpu.sh WHEELS [OUT]
#
# WHEELS holds what the machine lacks, as wheels: nothing is fetched from a network
# (`pip download -d WHEELS mujoco mujoco-mjx brax ...` on a machine that has one). Run it in
# the repository's root. Results go to OUT (default: experiments/results/gpu). Each benchmark
# gets a share of the time; one that fails or runs out of it leaves the others theirs.
set -uo pipefail
wheels=${1:?usage: gpu.sh WHEELS [OUT]}
out=${2:-experiments/results/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"

"$python" -m pip install -q --no-index --find-links "$wheels" \
    mujoco mujoco-mjx brax gymnasium flax optax chex orbax-checkpoint tyro rich matplotlib \
    imageio tensorboardX psutil || exit 1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
"$python" -c 'import jax; print(jax.__version__, jax.devices())' || exit 1

share() { # seconds, name, command ...
    local limit=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$python" "$@" 2>&1 | tee "$out/$name.txt"
    [ "${PIPESTATUS[0]}" -eq 0 ] || echo "== $name did not finish"
}

share 150 physics experiments/bench/physics.py --tasks half_cheetah --batches 1024 8192 \
    --physics fast --steps 32 --out "$out/bench_physics.json"
share 130 overhead experiments/bench/overhead.py --ppo half_cheetah --sac half_cheetah \
    --out "$out/bench_overhead.json"
share 110 seeds experiments/bench/seeds.py --learner sac --env pendulum_swingup \
    --seeds 1 8 64 --out "$out/bench_seeds.json"
share 130 learning experiments/ppo.py --env hopper --seeds 5 --num-evals 5 --no-video \
    --run-dir "$out/ppo_hopper"
