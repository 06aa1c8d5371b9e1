#!/usr/bin/env bash
# The measurements behind the EuroSAT tables of README and docs/results.md, each in WORK/results/NAME.json.
#
#   recipes/tables.sh EUROSAT WORK val     # the headline, and what holds: steps, recipes, uses of a set
#   recipes/tables.sh EUROSAT WORK test    # the headline; once, when nothing is left to choose
#
# WORK is that of embedded.sh. A result that exists is skipped. Start it twice to use two cores: each measurement is done by
# one of them. Exit code 1: one failed.
set -euo pipefail
shopt -s nullglob
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data=$1 work=$2 part=$3
results="$work/results" failed=0
mkdir -p "$results"

once() { # NAME COMMAND...: unless it is done or under way; COMMAND writes the result to its last argument
    local name=$1 out="$results/$1.json" lock
    shift
    exec {lock}>"$results/$name.lock"
    if flock --nonblock "$lock" && [ ! -e "$out" ]; then
        if "$@" "$out.part" >"$results/$name.log" 2>&1; then
            mv "$out.part" "$out"
        else
            echo "$name failed: $results/$name.log" >&2
            failed=1
        fi
    fi
    exec {lock}>&-
}

evaluate() { # NAME RECIPE IPC STUDENTS PAIRS [OPTION...]
    once "$part-$1" "$here/embedded.sh" "$data" "$work" evaluate "$part" "$2" "$3" "$4" --pairs "$5" "${@:6}" --out
}

many() { # NAME IPC RECIPE PAIRS [OPTION...]: images of run 0 beyond its codes; of four seeds if IPC is 2000
    once "$part-$1" "$here/tables.sh" "$data" "$work" "many-$part" "${@:2}" --out
}

evaluate_many() {
    local place=$1 ipc=$2 recipe
    recipe="$("$here/embedded.sh" "$data" "$work" recipe "$3")"
    [ "$place" = val ] || place="$data/test"
    flock "$work/fresh.lock" "$here/tables.sh" "$data" "$work" "fresh-$ipc"
    dpd evaluate "$work/fresh-$ipc" --train "$data/train" --test "$place" --val-per-class 100 --split names --ipc "$ipc" --pairs "$4" \
        --recipe "$recipe" "${@:5}"
}

fresh() { # IPC: so many images a class of run 0, 500 of each seed, in one folder
    local seed class file
    [ ! -e "$work/fresh-$1" ] || return 0
    rm -rf "$work/fresh-$1.part"
    for ((seed = 0; seed < $1 / 500; seed++)); do
        [ -e "$work/seed$seed/dataset.json" ] ||
            dpd generate "$work/run0.dpd" --ipc 500 --seed "$seed" --out "$work/seed$seed"
        for class in "$work/seed$seed"/*/; do
            mkdir -p "$work/fresh-$1.part/$(basename "$class")"
            for file in "$class"*; do
                ln "$file" "$work/fresh-$1.part/$(basename "$class")/$seed-$(basename "$file")"
            done
        done
    done
    mv "$work/fresh-$1.part" "$work/fresh-$1"
}

case $part in
fresh-*)
    fresh "${part#fresh-}"
    exit
    ;;
many-*)
    evaluate_many "${part#many-}" "${@:4}"
    exit
    ;;
val | test) ;;
*) sed -n '2,8p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac

for seed in 0 1 2; do
    flock "$work/bundle.lock" "$here/embedded.sh" "$data" "$work" bundle $seed
done
both=random,herding
published=$(printf '%s,' probe:hf:{efficientnet-lite0,efficientnet-lite2,opennsfw} tune:hf:{efficientnet-lite2,opennsfw})
published=${published%,}  # Lite0 watched; opennsfw: recipes/published_networks/opennsfw.py makes the folder, in DPD_NETWORKS
evaluate 10 quick 10 convnet 9 --baselines $both
evaluate 50 quick 50 convnet 6 --baselines $both
evaluate 10-published quick 10 "$published" 3 --baselines random,full
evaluate 50-published quick 50 "$published" 3 --baselines random,full
if [ "$part" = test ]; then
    evaluate 50-4000 quick4000 50 convnet 3 --baselines $both
    evaluate 10-others quick 10 mobilenetv2,vit-tiny 3 --baselines $both
    evaluate 50-others quick 50 mobilenetv2,vit-tiny 3 --baselines $both
    evaluate 10-soft quick 10 convnet 3 --soft-labels
    evaluate 50-soft quick 50 convnet 3 --soft-labels
    many 500-4000 500 quick4000 3 --baselines random,full
    exit $failed
fi

evaluate 10-4000 quick4000 10 convnet 3
evaluate 50-10000 quick10000 50 convnet 3
evaluate 10-sgd sgd 10 convnet 3
evaluate 50-sgd sgd 50 convnet 3
evaluate 10-with-real quick 10 convnet 3 --with-real 1,5,20
evaluate 50-with-real quick 50 convnet 3 --with-real 1,5,20
many 2000-4000-soft 2000 quick4000 2 --baselines full --soft-labels
exit $failed
