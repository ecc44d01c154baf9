#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM: brings this checkout's commit there, installs it,
# and starts the same command on each. The workers find each other by themselves.
#
# Usage: TPU=NAME ZONE=ZONE experiments/launch/tpu_vm.sh --config=CONFIG --workdir=WORKDIR [FLAG...]
#   TPU=v5e-16 ZONE=us-west4-a experiments/launch/tpu_vm.sh \
#     --config=experiments/configs/deep_k_means/mnist5k_cnn.py --workdir=/mnt/runs/mnist5k
#
# WORKDIR must lie on storage that all workers share (a mounted bucket or file store).
# Repeat the command after a pre-emption: it resumes. Only committed files travel, so that
# run.json names the revision that made the numbers.
#
# Variables:
#   TPU, ZONE          name and zone of the TPU VM; needed
#   PROJECT            Google Cloud project, by default that of gcloud's configuration
#   BINARY=train       the module below experiments: train or run
#   REMOTE=zoo-jax     the checkout on the workers, below the home folder
#   EXTRAS=samples     extras of setup.py to install
#   DRY_RUN=1          only print the commands
set -euo pipefail
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
    exit "$((2 * ($# == 0)))"
fi
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $*" >&2
    exit 2
}
[[ -n ${TPU:-} && -n ${ZONE:-} ]] || fail "name the TPU VM: TPU=NAME ZONE=ZONE $0 ..."
[[ -z $(git status --porcelain --untracked-files=no) ]] ||
    fail "there are uncommitted changes, which would not travel: commit them first"

show_or_run() {
    if [[ ${DRY_RUN:-} == 1 ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}
where=(--zone="$ZONE" --worker=all)
[[ -z ${PROJECT:-} ]] || where+=(--project="$PROJECT")
on_all_workers() { show_or_run gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --command="$1"; }

revision=$(git rev-parse HEAD)
remote=${REMOTE:-zoo-jax}
bundle=$(mktemp -d)/zoo-jax.bundle
trap 'rm -rf "$(dirname "$bundle")"' EXIT
show_or_run git bundle create --quiet "$bundle" HEAD
show_or_run gcloud compute tpus tpu-vm scp "$bundle" "$TPU:$remote.bundle" "${where[@]}"

printf -v arguments '%q ' "$@"
on_all_workers "set -e
    test -d $remote/.git || git clone --quiet $remote.bundle $remote
    cd $remote
    git fetch --quiet ../$remote.bundle HEAD
    git checkout --quiet --detach $revision
    bash constraints/install.sh .venv ${EXTRAS:-samples}
    .venv/bin/pip install --quiet \"jax[tpu]==\$(.venv/bin/python -c 'import jax; print(jax.__version__)')\""
on_all_workers "cd $remote && .venv/bin/python -m experiments.${BINARY:-train} --distributed=auto $arguments"
