#!/usr/bin/env bash
# Training on the device machine: one `dpd distill` of the packed images, then a set from its bundle.
#   bash recipes/device/distill.sh MINUTES [options of dpd distill]
# A call without the base (dpd_train/data/nano) unpacks the images and ends: the base and the images are too large for
# one call. MINUTES are those of dpd distill. What comes back under $OUT: log, distill.json, report.html.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
minutes="$1"
shift
source recipes/device/prepare.sh

if [ ! -e dpd_train/data/nano ]; then
    echo "images are in $work/data; call again with dpd_train/data/nano, without recipes/device/packed"
    exit 0
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null | tee "$out/gpu.csv" || true

step "dpd distill, $minutes minutes"
code=0
dpd distill "$work/data" --out "$work/site" --minutes "$minutes" --json "$@" \
    >"$out/distill.json" 2>>"$out/log" || code=$?
tail -n 40 "$out/log"
cp "$work/site/report.html" "$out/" 2>/dev/null || true

if [ "$code" = 0 ]; then
    step "a set from its bundle, on the CPU"
    dpd generate "$work/site" --ipc 10 --out "$work/set" --json | tee "$out/set.json"
fi
exit "$code"
