#!/usr/bin/env bash
# The measurements behind the EuroSAT tables of README and docs/results/quality.md, each in WORK/results/NAME.json.
#
#   benchmarks/tables.sh EUROSAT WORK val     # what holds: steps, recipes, students, choices of real images, uses of a set
#   benchmarks/tables.sh EUROSAT WORK test    # once, when nothing is left to choose
#
# WORK is that of embedded.sh, whose sets must exist. A result that exists is skipped. Start it twice to use two cores:
# each measurement is done by one of them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data=$1 work=$2 part=$3
results="$work/results"
mkdir -p "$results"

once() { # NAME COMMAND...: unless it is done or under way; COMMAND writes the result to its last argument
    local out="$results/$1.json"
    [ ! -e "$out" ] || return 0
    (
        flock --nonblock 9 || exit 0
        "${@:2}" "$out.part" >"$results/$1.log" 2>&1 && mv "$out.part" "$out" || echo "$1 failed: $results/$1.log" >&2
    ) 9>"$results/$1.lock"
}

evaluate() { # NAME RECIPE IPC STUDENTS PAIRS [OPTION...]
    once "$part-$1" "$here/embedded.sh" "$data" "$work" evaluate "$part" "$2" "$3" "$4" --pairs "$5" "${@:6}" --out
}

many() { # NAME IPC RECIPE PAIRS [OPTION...]: images of run 0 beyond its codes, from four seeds where IPC is 2000
    once "$part-$1" evaluate_many "${@:2}" --out
}

evaluate_many() {
    local set="$work/fresh0" place=val recipe
    recipe="$("$here/embedded.sh" "$data" "$work" recipe "$2")"
    flock "$work/fresh.lock" "$here/tables.sh" "$data" "$work" fresh
    [ "$1" = 500 ] || set="$work/fresh"
    [ "$part" = val ] || place="$data/test"
    dpd evaluate "$set" --train "$data/train" --test "$place" --val-per-class 100 --ipc "$1" --pairs "$3" --recipe "$recipe" "${@:4}"
}

fresh() { # 500 images a class of each of four seeds, and all of them in one folder
    local seed file
    for seed in 0 1 2 3; do
        [ -e "$work/fresh$seed/dataset.json" ] || dpd generate "$work/run0.dpd" --ipc 500 --seed "$seed" --out "$work/fresh$seed"
        for file in "$work/fresh$seed"/*/*; do
            mkdir -p "$work/fresh/$(basename "$(dirname "$file")")"
            ln -f "$file" "$work/fresh/$(basename "$(dirname "$file")")/$seed-$(basename "$file")"
        done
    done
}

both=random,herding
case $part in
fresh) fresh && exit ;;
val | test) ;;
*) sed -n '2,9p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
evaluate 10 quick 10 convnet 10 --baselines $both
evaluate 50 quick 50 convnet 6 --baselines $both
evaluate 50-4000 quick4000 50 convnet 3 --baselines $both
evaluate 10-others quick 10 mobilenetv2,vit-tiny 5 --baselines $both
evaluate 50-others quick 50 mobilenetv2,vit-tiny 3 --baselines $both
evaluate 10-soft quick 10 convnet 5 --soft-labels
evaluate 50-soft quick 50 convnet 3 --soft-labels
many 500-4000 500 quick4000 3 --baselines random,full
[ "$part" = val ] || exit 0

evaluate 10-4000 quick4000 10 convnet 5
evaluate 50-10000 quick10000 50 convnet 3
evaluate 10-sgd sgd 10 convnet 5
evaluate 50-sgd sgd 50 convnet 3
evaluate 10-with-real quick 10 convnet 5 --with-real 1,5,20
evaluate 50-with-real quick 50 convnet 3 --with-real 1,5,20
many 2000-4000-soft 2000 quick4000 2 --baselines full --soft-labels
many 2000-20000-soft 2000 quick20000 1 --baselines full --soft-labels
once selections python "$here/selections.py" "$data/train" --val-per-class 100 --work "$work/selections" --out
for method in matched distribution-matching; do
    once "pixels-$method" python "$here/pixel_sets.py" "$data/train" --val-per-class 100 --run "$work/run0" \
        --method $method --work "$work/pixels" --out
done
