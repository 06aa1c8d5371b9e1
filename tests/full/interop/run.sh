#!/usr/bin/env bash
# Does optimum open what we export? In an environment of its own, as optimum-onnx wants older packages than we run.
#   tests/full/interop/run.sh FOLDER        FOLDER is made: an environment of 1.5 GB and a tiny run with its bundles
#   DPD_PYTHON=…/python                a Python in which dpd-distill[dev] is installed; `python` by default
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
folder="${1:?give a folder that can be made}"
python="${DPD_PYTHON:-python}"
export HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME

mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
[ -e "$folder/material" ] || (cd "$root" && "$python" "$here/make_material.py" "$folder/material")
if [ ! -x "$folder/venv/bin/pytest" ]; then
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --constraint "$root/constraints-optimum.txt" \
        "optimum-onnx[onnxruntime]" transformers diffusers torch onnxruntime pytest
fi
cd "$folder" # not the checkout: this environment has no dpd, its tests need none, and its warnings are others'
DPD_INTEROP="$folder/material" "$folder/venv/bin/python" -m pytest "$here/test_optimum.py" \
    --noconftest -p no:cacheprovider --rootdir "$here" -o addopts= -o filterwarnings= -v
