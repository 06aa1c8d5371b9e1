#!/usr/bin/env bash
# The pilots of taught students (pilot.py) and of classes of a site's own (own_classes.py).
#
#   recipes/taught/pilot.sh EUROSAT UCMERCED WORK
#
# A run that is in WORK/results.jsonl is not made again. One core; 4,000 steps take seven
# minutes with a teacher and four without.
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
        for arm in codes unguided:500 images500 unguided kept-unguided:500 real:500 real:50 fields:500 foreign; do
            run $arm $steps $seed
            [ $arm = foreign ] || run $arm $steps $seed --hard
        done
    done
done
for seed in 0 1 2; do
    for way in codes real labels taught freed coded coded-taught after; do
        python "$here/own_classes.py" "$data/train" --way $way --seed $seed --work "$work" --out "$work/own_classes.jsonl"
    done
done
