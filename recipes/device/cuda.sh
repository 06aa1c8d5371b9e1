#!/usr/bin/env bash
# The CUDA provider on the device machine: correctness, then speed. After the calls of `runtime.py split`.
#   bash recipes/device/cuda.sh [BUNDLE]
# What comes back under $OUT: doctor.json, verify.json, set hashes, bench-*.json, log.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source recipes/device/prepare.sh
provider="${PROVIDER:-cuda}" bundle="${1:-dpd_runtime/data/eurosat64.dpd}"

if [ "$provider" != cpu ]; then
    wheel="$("$python" recipes/device/runtime.py join)" || exit 1
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$wheel" || exit 1
    # the libraries that PyTorch brought lie in another folder than ours, where onnxruntime does not look
    libraries="$("$python" -c "import pathlib, sysconfig; root = pathlib.Path(sysconfig.get_path('purelib'), 'nvidia'); print(':'.join(map(str, root.glob('*/lib'))))")"
    export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"
fi

step "doctor"
dpd doctor --json >"$out/doctor.json" 2>>"$out/log"
step "golden images"
dpd verify "$bundle" --provider "$provider" --json >"$out/verify.json" 2>>"$out/log" || tail -n 3 "$out/log"
said() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["set_hash"])' "$1"; }
for kind in decoded sampled; do
    options=()
    [ "$kind" = decoded ] || options=(--candidates 3)
    for run in once twice resumed; do
        step "$kind set, $run"
        command=("$python" -m dpd_cli generate "$bundle" --ipc 20 --provider "$provider" "${options[@]}" --out "$work/$kind-$run" --json)
        if [ "$run" = resumed ]; then # stop it after its first image, then go on
            "${command[@]}" >/dev/null 2>>"$out/log" &
            until [ -n "$(find "$work/$kind-$run" -name '*.png' -print -quit 2>/dev/null)" ] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
            kill -TERM $! 2>/dev/null # bash starts it with SIGINT ignored
            wait $!
        fi
        "${command[@]}" >"$out/$kind-$run.json" 2>>"$out/log" || tail -n 3 "$out/log"
    done
    hashes="$(for run in once twice resumed; do said "$out/$kind-$run.json"; done | sort -u)"
    echo "$kind: $(wc -l <<<"$hashes") set hash of three runs: $hashes" | tee -a "$out/log"
done
step "bench"
dpd bench "$bundle" --blocks 10 --provider "$provider" --json >"$out/bench-$provider.json" 2>>"$out/log" || tail -n 3 "$out/log"
dpd bench "$bundle" --blocks 3 --provider cpu --json >"$out/bench-cpu.json" 2>>"$out/log"
cat "$out"/bench-*.json "$out/verify.json"
