#!/usr/bin/env bash
# The pilot of taught students (pilot.py): all arms with 4,000 steps, then 10,000 steps and further seeds.
#
#   recipes/taught/pilot.sh EUROSAT UCMERCED WORK
#
# A run that is in WORK/results.jsonl is not made again. One core; about eight minutes for 4,000 steps.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data=$1 foreign=$2 work=$3
mkdir -p "$work"
[ -e "$work/codes/dataset.json" ] || dpd generate --ipc 50 --out "$work/codes"
[ -e "$work/images500/dataset.json" ] || dpd generate --ipc 500 --out "$work/images500"
[ -e "$work/unguided/dataset.json" ] || dpd generate --ipc 2000 --guidance-scale 1 --candidates 1 --out "$work/unguided"
run() { # ARM STEPS SEED [OPTION...]
    python "$here/pilot.py" "$data/train" --arm "$1" --steps "$2" --seed "$3" --foreign "$foreign/train" \
        --work "$work" --out "$work/results.jsonl" "${@:4}"
}
for seed in 0 1 2; do
    for steps in 4000 10000; do
        for arm in codes images500 unguided real:500 real:50 fields:500 foreign; do
            run $arm $steps $seed
            [ $arm = foreign ] || run $arm $steps $seed --hard
        done
    done
done
