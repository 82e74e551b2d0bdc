#!/usr/bin/env bash
# Make or refresh the virtual environment that the Makefile works in: tools/setup.sh VENV
# PYTHON chooses the interpreter; otherwise the first python >= 3.11 with headers is taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1

# Headers matter because DeepSpeed compiles an extension when it is first used.
fits='import sys, sysconfig, os.path, venv, ensurepip
assert sys.version_info >= (3, 11), "older than 3.11"
header = os.path.join(sysconfig.get_path("include"), "Python.h")
assert os.path.exists(header), f"its headers are missing ({header})"'

choose_python() {
    local candidate why tried=""
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if ! command -v "$candidate" >/dev/null; then
            tried+="  $candidate: not found"$'\n'
        elif why=$("$candidate" -c "$fits" 2>&1); then
            command -v "$candidate"
            return
        else
            tried+="  $candidate: $(tail -n 1 <<<"$why")"$'\n'
        fi
    done
    {
        echo "error: no usable Python; tried"
        printf '%s' "$tried"
        echo "Python 3.11 or newer with headers is needed, on Debian and Ubuntu:"
        echo "  sudo apt-get install python3.11 python3.11-dev python3.11-venv build-essential"
        echo "or name one: make setup PYTHON=/path/to/python3.12"
    } >&2
    return 2
}

if ! command -v "${CXX:-g++}" >/dev/null; then
    echo "warning: no C++ compiler (g++): PyTorch training on DeepSpeed needs one; sudo apt-get install build-essential" >&2
fi

if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
    python=$(choose_python)
    echo "setting up $venv with $("$python" --version) ($python): about a minute, 2.5 GB" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
