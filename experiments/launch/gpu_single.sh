#!/usr/bin/env bash
# Trains on the GPUs of this machine, one process for all of them.
#
# Usage: experiments/launch/gpu_single.sh --config=CONFIG --workdir=WORKDIR [FLAG...]
#   CUDA_VISIBLE_DEVICES=0,1 experiments/launch/gpu_single.sh \
#     --config=experiments/configs/deep_k_means/mnist5k_cnn.py --workdir=runs/mnist5k
#
# Variables:
#   BINARY=train  the module below experiments: train or run
#   PYTHON        the interpreter, by default .venv/bin/python of this checkout
#   DRY_RUN=1     only print the command
#
# Ctrl-C or SIGTERM saves and stops; the same command resumes. Needs JAX with CUDA once:
#   .venv/bin/pip install 'jax[cuda12]' -c constraints/py311.txt
set -euo pipefail
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
    exit "$((2 * ($# == 0)))"
fi
cd "$(dirname "$0")/../.."

python=${PYTHON:-.venv/bin/python}
command=("$python" -m "experiments.${BINARY:-train}" "$@")
if [[ ${DRY_RUN:-} == 1 ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit
fi
# Without this, JAX would quietly take hours on the CPU.
if ! "$python" -c 'import jax; jax.devices("gpu")' 2>/dev/null; then
    echo "error: JAX finds no GPU here: install jax[cuda12] (see --help), or run python -m experiments.train for the CPU" >&2
    exit 2
fi
exec "${command[@]}"
