#!/usr/bin/env bash
# One piece of pretraining on the device machine; recipes/device/README.md has the calls.
#   bash recipes/device/train.sh STAGES MINUTES [options of dpd pretrain]
# MINUTES count from here, installing and unpacking included; after them the state is saved and comes back under $OUT.
# WORK (default /tmp/dpd-device) keeps data and whole states for as long as the machine stays warm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

stages="$1" minutes="$2"
shift 2
source recipes/device/prepare.sh
mkdir -p "$work/state"

# What a warm machine holds is newer than what travelled, and has its optimisers.
for file in recipes/device/state/*.safetensors; do
    if [ -e "$file" ] && [ ! -e "$work/state/$(basename "$file")" ]; then
        cp "$file" "$work/state/"
        chmod u+w "$work/state/$(basename "$file")"
    fi
done

left="$("$python" -c "import sys; print(max(0.0, float(sys.argv[1]) - float(sys.argv[2]) / 60))" "$minutes" "$((SECONDS - begun))")"
code=0
rm -f "$work/result.json"
"$python" -m dpd_cli pretrain "$work/data" --out "$work/base" --state "$work/state" --stage "$stages" \
    --device "${DEVICE:-cuda}" --max-minutes "$left" --json "$@" >"$work/result.json" 2>"$out/train.log" || code=$?
tail -n 25 "$out/train.log"
"$python" recipes/device/report.py --state "$work/state" --out "$out" --result "$work/result.json" \
    --log "$out/train.log" --seconds "$((SECONDS - begun))"
exit "$code"
