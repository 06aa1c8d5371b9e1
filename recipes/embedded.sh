#!/usr/bin/env bash
# The embedded bundle and README's tables: EuroSAT, matched several times from the shipped base.
#
#   dpd data fetch                                  # EfficientNet-Lite 0 and 1 watch, 2 judges
#   recipes/embedded.sh EUROSAT WORK match 0        # SEED: 0, 1 and 2, fifty codes each, two hours of two cores
#   python recipes/codes.py keep WORK/run1 recipes/matched/seed1.safetensors   # any time; match goes on there elsewhere
#   python recipes/codes.py images recipes/matched/seed1.safetensors 1 EUROSAT/train WORK/ten1   # a set of those
#   cp dpd_runtime/data/eurosat64.dpd WORK/run0.dpd  # in place of matching seed 0 again: it is that bundle, audited
#   recipes/embedded.sh EUROSAT WORK bundle 0       # export a run, other seeds' codes-only, and generate its set
#   recipes/embedded.sh EUROSAT WORK audit 0        # beside the test part; writes an audited bundle
#   recipes/embedded.sh EUROSAT WORK evaluate val quick 10 convnet   # PART RECIPE IPC STUDENTS [OPTION...]
#   recipes/embedded.sh EUROSAT WORK recipe quick4000                # the file of a recipe: quick, quickSTEPS or sgd
#
# To ship an audited bundle, copy it to dpd_runtime/data/, write its hash into dpd_runtime/bundle.py (EMBEDDED_HASH) and
# record tests/contract/unchanged.json anew (its test says how). It has its codes: delete them in matched/.
#
# EUROSAT holds train/ and test/; WORK keeps runs, bundles and sets. Seed 0 is the embedded bundle. The first ten codes of
# each class are a matched set of their own. A finished stage is skipped, and one that was killed goes on with the options
# that it began with: take a new WORK after a change here. Matching takes one thread, so two can run beside each other.
# Give `evaluate` a multiple of the number of sets, three, as --pairs.
set -euo pipefail
shopt -s nullglob
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data=$1 work=$2 stage=$3
shift 3
mkdir -p "$work"

train() { # RUN OPTION...
    if [ -e "$1/run.json" ]; then
        return
    elif [ -d "$1" ]; then
        dpd train --resume --out "$1" --threads 1 --keep-checkpoints
    else
        "${begin[@]}" dpd train "$data/train" --out "$1" --val-per-class 100 --split names --threads 1 --keep-checkpoints \
            --steps 300 --peak-rate 2e-4 --no-tune-vae --set teacher_steps=4000 "${@:2}"
    fi
}

match() {
    local codes="$here/matched/seed$1.safetensors" run="$work/run$1" begin=()
    [ ! -e "$codes" ] || [ -d "$run" ] || begin=(python "$here/codes.py" begin "$codes" "$run")
    train "$run" --prototypes matched --seed "$1" --ipc 50 --watchers own,hf:efficientnet-lite0,hf:efficientnet-lite1
    train "$run" # what begins with codes ends there
}

bundle() {
    local bundle="$work/run$1.dpd" set="$work/set$1" parts=(--codes-only)
    [ "$1" != 0 ] || parts=()
    [ -e "$bundle" ] || dpd export "$work/run$1" --out "$bundle" --name eurosat64 --base-licence Apache-2.0 \
        --data-licence "EuroSAT (MIT), contains Copernicus Sentinel data" "${parts[@]}"
    [ -e "$set/dataset.json" ] || dpd generate "$bundle" --ipc 50 --seed "$1" --out "$set"
}

audit() {
    [ -e "$work/audited$1.dpd" ] || dpd audit "$work/run$1.dpd" --train "$data/train" --val-per-class 100 --split names \
        --holdout "$data/test" --images 1500 --out "$work/audited$1.dpd"
}

recipe() { # NAME: quickSTEPS is the quick recipe with so many steps for every arm, so that `full` has an equal budget too
    local steps=${1#quick} file="$work/$1.toml"
    case $1 in
    quick?*) sed -e "s/^steps = .*/steps = $steps/" -e '/^full_steps/d' -e '1,2d' \
        "$here/../dpd_eval/recipes/quick.toml" >"$file.$$" && mv "$file.$$" "$file" && echo "$file" ;;
    sgd) echo "$here/sgd.toml" ;;
    *) echo "$1" ;;
    esac
}

evaluate() {
    local part=$1 ipc=$3 sets=("$work"/set[0-2]/dataset.json)
    [ "${#sets[@]}" = 3 ] || { echo "$work: three sets are needed; make them with match and bundle" >&2 && exit 1; }
    case $part in
    val) ;;
    test) part="$data/test" ;;
    *) echo "$part: val or test" >&2 && exit 2 ;;
    esac
    dpd evaluate "${sets[@]%/dataset.json}" --train "$data/train" --test "$part" --val-per-class 100 --split names --students "$4" --ipc "$ipc" \
        --recipe "$(recipe "$2")" "${@:5}"
}

case $stage in
match | bundle | audit | evaluate | recipe) "$stage" "$@" ;;
*) sed -n '2,/^set/{/^#/p}' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
