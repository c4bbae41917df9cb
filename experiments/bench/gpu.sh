#!/usr/bin/env bash
# The benchmarks and the GPU's tests on a machine with an NVIDIA GPU and jax, in twelve minutes.
#
#     bash experiments/bench/gpu.sh WHEELS [OUT]
#     PARTS="overhead seeds" bash experiments/bench/gpu.sh WHEELS [OUT]
#     CPU=1 bash experiments/bench/gpu.sh WHEELS [OUT]
#
# Run it in the repository's root. No network is needed: WHEELS is a folder of what the machine
# lacks, as wheels (README.md beside this file says how to make it). Of these it installs, into a
# temporary folder, those that the machine does not have; what it has stays as it is. Results go
# to OUT (default: experiments/results/gpu). Each part has its share of the time; one that fails
# or runs out of it leaves the others theirs, and what it has measured. Run again with the same
# OUT, learning goes on where it stopped. CPU=1 tests the script without a GPU, in small sizes.
set -uo pipefail
usage="usage: [PARTS=\"NAME ...\"] [CPU=1] gpu.sh WHEELS [OUT]"
wheels=${1:?$usage}
out=${2:-experiments/results/gpu}
python=${PYTHON:-python3}
all="overhead physics seeds tests sac ppo fast_td3 fast_sac"
parts=${PARTS:-$all}
for part in $parts; do
    [[ " $all " == *" $part "* ]] || { echo "PARTS: no $part; there are $all"; exit 2; }
done
[ -d "$wheels" ] || { echo "no folder $wheels; $usage"; exit 2; }
[ -e experiments/bench/gpu.sh ] || { echo "run this in the repository's root"; exit 2; }
mkdir -p "$out" || exit 2
scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$scratch"' EXIT

missing=$("$python" - "$wheels" <<'EOF'
import re, sys
from importlib import metadata
from pathlib import Path

plain = lambda name: re.sub("[-_.]+", "-", name).lower()
have = {plain(d.name) for d in metadata.distributions() if d.name}
print(*(w for w in Path(sys.argv[1]).glob("*.whl") if plain(w.name.split("-")[0]) not in have), sep="\n")
EOF
) || exit 1
if [ -n "$missing" ]; then
    mapfile -t missing <<<"$missing"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" \
        "${missing[@]}" || exit 1
fi
export PYTHONPATH=$PWD:$scratch/site${PYTHONPATH:+:$PYTHONPATH}
export XLA_PYTHON_CLIENT_PREALLOCATE=false # processes share the GPU
[ -z "${CPU:-}" ] || export JAX_PLATFORMS=cpu
platform=$("$python" -c 'import jax; print(jax.__version__, jax.devices()); print(jax.default_backend())') || exit 1
echo "$platform"
[ "${platform##*$'\n'}" = gpu ] || [ -n "${CPU:-}" ] || { echo "jax sees no GPU"; exit 1; }

share() { # seconds, part, command ...
    local limit=$1 part=$2
    shift 2
    [[ " $parts " == *" $part "* ]] || return
    [ -z "${CPU:-}" ] || limit=$((5 * limit))
    echo "== $part"
    timeout -k 10 "$limit" "$python" "$@" 2>&1 | tee "$out/$part.txt"
    [ "${PIPESTATUS[0]}" -eq 0 ] || echo "== $part did not finish" | tee -a "$scratch/failed"
}

learn() { # seconds, learner, task, flag ...
    local limit=$1 learner=$2 run=$out/$2_$3
    local flags=(--env "$3" --run-dir "$run" "${@:4}")
    [ ! -e "$run/config.json" ] || flags+=(--resume)
    share "$limit" "$learner" experiments/train.py --learner "$learner" "${flags[@]}" --no-video
}

if [ -z "${CPU:-}" ]; then
    tasks=(half_cheetah ant)
    envs=8192 steps=32 seeds=64 seed_envs=512
    sac=(half_cheetah --seeds 5 --num-evals 10)
    # The preset's, with eight times the environments and steps: on a GPU these cost little.
    ppo=(ant --seeds 5 --num-evals 10 --num-envs 512 --num-minibatches 32 --total-steps 16384000)
    fast_td3=(half_cheetah --seeds 1 --num-evals 10 --total-steps 5120000)
    fast_sac=(half_cheetah --seeds 1 --num-evals 10)
else
    tasks=(inverted_pendulum)
    envs=16 steps=2 seeds=2 seed_envs=16
    sac=(pendulum_swingup --seeds 1 --num-evals 1 --num-envs 8 --learning-starts 0 --total-steps 80)
    ppo=(inverted_pendulum --seeds 1 --num-evals 1 --num-envs 8 --total-steps 1024)
    small=(--num-envs 8 --batch-size 16 --replay-size 80 --learning-starts 0 --total-steps 80)
    fast_td3=(pendulum_swingup --seeds 1 --num-evals 1 "${small[@]}" --v-min 0 --v-max 34)
    fast_sac=(pendulum_swingup --seeds 1 --num-evals 1 "${small[@]}")
fi

share 125 overhead experiments/bench/overhead.py --ppo "${tasks[@]}" --sac --seeds 1 \
    --num-envs "$envs" --rounds 3 --out "$out/bench_overhead.json"
share 115 physics experiments/bench/physics.py --tasks "${tasks[@]}" --physics fast \
    --batches "$envs" --steps "$steps" --rounds 3 --out "$out/bench_physics.json"
share 60 seeds experiments/bench/seeds.py --env cartpole_swingup --seeds 1 "$seeds" --no-grid \
    --num-envs "$seed_envs" --rounds 3 --out "$out/bench_seeds.json"
# No one's time counts here: side by side they keep the GPU busy while others compile.
share 180 tests -m pytest tests/test_gpu.py -o addopts= -p no:cacheprovider -v &
learn 180 sac "${sac[@]}" &
learn 180 ppo "${ppo[@]}" &
wait
learn 180 fast_td3 "${fast_td3[@]}" &
learn 180 fast_sac "${fast_sac[@]}" &
wait
[ ! -e "$scratch/failed" ]
