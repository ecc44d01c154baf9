#!/usr/bin/env bash
# Rewrites the constraint file of one Python: a fresh virtual environment, the newest
# releases that setup.py allows, their exact versions written down.
#
# Usage: constraints/freeze.sh PYTHON [EXTRAS [REQUIREMENT...]]
#   constraints/freeze.sh python3.12        # -> constraints/py312.txt
#   constraints/freeze.sh python3.11 samples,export,dev,torch torch==2.13.0
#
# A requirement holds one package at a release. Run the tests before you commit the result.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:?usage: constraints/freeze.sh PYTHON [EXTRAS [REQUIREMENT...]]}
extras=${2:-samples,export,dev}
requirements=("${@:3}")
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
file=constraints/py${version/./}.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip -qq)
"${pip[@]}" install --upgrade pip setuptools wheel
"${pip[@]}" install --no-build-isolation -e ".[$extras]" "${requirements[@]}"
"${pip[@]}" check

{
    echo "# What the tests pass with. Made by:"
    echo "# constraints/freeze.sh python$version $extras ${requirements[*]}" | sed 's/ *$//'
    # A local build label such as +cpu belongs to one machine's wheel.
    "${pip[@]}" freeze --all --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$//'
} >"$work/frozen.txt"
if grep -vE '^(#|[A-Za-z0-9._-]+==[A-Za-z0-9.]+$)' "$work/frozen.txt"; then
    echo "freeze.sh: the lines above name no release" >&2
    exit 1
fi
mv "$work/frozen.txt" "$file"
echo "$file: $(grep -vc '^#' "$file") releases"
