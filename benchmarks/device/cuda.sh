#!/usr/bin/env bash
# The CUDA provider on the device machine: correctness, then speed. After the calls of `runtime.py split`.
#   bash benchmarks/device/cuda.sh [BUNDLE]
# What comes back under $OUT: doctor.json, verify.json, set hashes, bench-*.json, log.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out="${OUT:?names the folder that comes back}" site="${SITE:-/tmp/site}" python="${PYTHON:-python3}"
provider="${PROVIDER:-cuda}" bundle="${1:-dpd_runtime/data/eurosat64.dpd}"
export PYTHONPATH="$site:$PWD:$PWD/cli:$PWD/export" PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/dpd-device/cache
dpd() { "$python" -m dpd_cli "$@"; }
step() { echo "== $*" | tee -a "$out/log"; }

if [ "$provider" != cpu ]; then
    wheel="$("$python" benchmarks/device/runtime.py join)" || exit 1
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$wheel" .whl/*.whl || exit 1
    # the libraries that PyTorch brought lie in another folder than ours, where onnxruntime does not look
    libraries="$("$python" -c "import pathlib, sysconfig; root = pathlib.Path(sysconfig.get_path('purelib'), 'nvidia'); print(':'.join(map(str, root.glob('*/lib'))))")"
    export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"
fi

step "doctor"
dpd doctor --json >"$out/doctor.json" 2>>"$out/log"
step "golden images"
dpd verify "$bundle" --provider "$provider" --json >"$out/verify.json" 2>>"$out/log" || tail -n 3 "$out/log"
for kind in decoded sampled; do
    options=(); [ "$kind" = sampled ] && options=(--candidates 3)
    for run in 1 2; do
        step "$kind set $run"
        dpd generate "$bundle" --ipc 20 --provider "$provider" "${options[@]}" --out "/tmp/dpd-device/$kind$run" --json \
            >"$out/$kind$run.json" 2>>"$out/log" || tail -n 3 "$out/log"
    done
    "$python" - "$out/$kind"1.json "$out/$kind"2.json <<'EOF' | tee -a "$out/log"
import json, sys
first, second = (json.load(open(path))["set_hash"] for path in sys.argv[1:])
print("the same set hash twice" if first == second else f"two set hashes: {first[:12]} and {second[:12]}")
EOF
done
step "bench"
dpd bench "$bundle" --blocks 10 --provider "$provider" --json >"$out/bench-$provider.json" 2>>"$out/log" || tail -n 3 "$out/log"
dpd bench "$bundle" --blocks 3 --provider cpu --json >"$out/bench-cpu.json" 2>>"$out/log"
cat "$out"/bench-*.json "$out/verify.json"
