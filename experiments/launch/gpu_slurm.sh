#!/usr/bin/env bash
# Trains on GPU nodes under SLURM, one process per GPU. Pre-empted or out of time, the job
# saves, goes back into the queue and resumes.
#
# Usage: sbatch [SBATCH OPTION...] experiments/launch/gpu_slurm.sh --config=CONFIG --workdir=WORKDIR [FLAG...]
#   sbatch --nodes=2 --time=12:00:00 experiments/launch/gpu_slurm.sh \
#     --config=experiments/configs/deep_k_means/mnist5k_cnn.py --workdir=runs/mnist5k
#
# Submit it from the checkout. WORKDIR must lie on a file system that all nodes share.
# Options before the script override the #SBATCH lines; keep --ntasks-per-node equal to
# --gpus-per-node. The processes find each other through SLURM's own variables.
#
# Variables:
#   BINARY=train     the module below experiments: train or run
#   PYTHON           the interpreter, by default .venv/bin/python of the checkout
#   MAX_RESTARTS=50  give up after so many requeues
#   DRY_RUN=1        only print the commands
#
#SBATCH --job-name=zoo-jax
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Two minutes before the end the processes (not this script) get SIGTERM and save.
#SBATCH --signal=TERM@120
set -euo pipefail
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p;}' "$0"
    exit "$((2 * ($# == 0)))"
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: not inside a SLURM job: submit this script with sbatch" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"

show_or_run() {
    if [[ ${DRY_RUN:-} == 1 ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# If one process fails, the others would wait for it: they get a minute to save, then end.
code=0
show_or_run srun --kill-on-bad-exit=0 --wait=60 \
    "${PYTHON:-.venv/bin/python}" -m "experiments.${BINARY:-train}" --distributed=auto "$@" || code=$?

# 143 is 128 + SIGTERM: saved and stopped before the end. A job that was cancelled by hand
# does not come here, since scancel ends this script too.
restarts=${SLURM_RESTART_COUNT:-0}
if [[ $code -eq 143 ]]; then
    if ((restarts >= ${MAX_RESTARTS:-50})); then
        echo "error: stopped after $restarts restarts: submit again to go on, or raise MAX_RESTARTS" >&2
        exit 1
    fi
    echo "stopped by SIGTERM; requeued (restart $((restarts + 1)))"
    show_or_run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
