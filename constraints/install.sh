#!/usr/bin/env bash
# Makes the virtual environment of this checkout, or brings it up to date. `make` calls it.
#
# Usage: constraints/install.sh VENV EXTRAS
# PYTHON=...  the interpreter; by default the first of python3, python3.11, python3.12 that
#             has a constraint file here, else any that is 3.11 or newer.
# Needs nothing else. An installation that was cut off is noticed and made anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 2
}
version_of() { # prints 3.11 for an interpreter that runs and is new enough
    "$1" -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit(1); print("%d.%d" % v)' 2>/dev/null
}
constraints_of() { echo "constraints/py${1/./}.txt"; }

find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        version_of "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    local name version fallback=
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        version=$(version_of "$name") || continue
        if [[ -f $(constraints_of "$version") ]]; then
            echo "$name"
            return
        fi
        fallback=${fallback:-$name}
    done
    [[ -n $fallback ]] || fail "no Python 3.11 or newer here: install one, or name it with PYTHON=/path/to/python"
    echo "$fallback"
}

venv=${1:?usage: constraints/install.sh VENV EXTRAS}
extras=${2:?usage: constraints/install.sh VENV EXTRAS}
marker=$venv/.installing # holds the process id while an installation is under way

if [[ -f $marker ]]; then
    owner=$(<"$marker")
    if [[ -n $owner ]] && kill -0 "$owner" 2>/dev/null; then
        fail "process $owner is installing into $venv: wait for it"
    fi
    echo "$venv: the last installation was cut off; starting anew"
    rm -rf "$venv"
fi
version=$(version_of "$venv/bin/python") || version=
if [[ -n $version ]] && [[ -n ${PYTHON:-} ]] && [[ $(version_of "$PYTHON") != "$version" ]]; then
    fail "$venv has Python $version, not that of PYTHON=$PYTHON: make clean, or take another VENV"
fi
if [[ -z $version ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if [[ -e $venv && ! -f $venv/pyvenv.cfg && -n $(ls -A "$venv") ]]; then
        fail "$venv is not a virtual environment: remove it, or take another one with VENV=..."
    fi
    python=$(find_python)
    version=$(version_of "$python")
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python $version has no venv module: on Debian or Ubuntu, apt-get install python$version-venv"
    echo "$venv: new environment with Python $version"
    rm -rf "$venv"
    mkdir -p "$venv"
    echo $$ >"$marker"
    "$python" -m venv "$venv"
fi
echo $$ >"$marker"

options=(-qq --disable-pip-version-check)
constraints=$(constraints_of "$version")
if [[ -f $constraints ]]; then
    echo "$venv: installing zoo-jax[$extras] with $constraints (a few minutes the first time)"
    options+=(-c "$constraints")
else
    echo "$venv: installing zoo-jax[$extras]; no $constraints, so the newest releases in setup.py's ranges"
fi
pip() { "$venv/bin/python" -m pip install "${options[@]}" "$@"; }
# The build tools are held too: --no-build-isolation makes source packages use these.
if ! pip --upgrade pip setuptools wheel || ! pip --no-build-isolation -e ".[$extras]"; then
    fail "the installation failed, see above; the same command starts it anew"
fi
rm "$marker"
