#!/usr/bin/env bash
# Generate one set with an array of jobs. All tasks have the same --out on shared storage. The last one to finish writes
# dataset.json. If a task was killed or requeued, submit the same array again to continue.
#
#   sbatch examples/slurm_array.sh site.dpd /shared/set 500
#
# The signer's public key lies in ~/.config/dpd/trusted on every node (docs/guides/hand-over.md).
#
#SBATCH --job-name=dpd-generate
#SBATCH --array=0-15
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --constraint=YOUR_CPU_TYPE   # one machine type for all tasks: others are refused, their last bits may differ
set -euo pipefail
bundle="${1:?give a bundle}" out="${2:?give a folder that all nodes see}" ipc="${3:-50}"

# --array=0-15: ids must begin at 0, as shards do
[ "${SLURM_ARRAY_TASK_MIN:-0}" -eq 0 ] || { echo "the array must begin at 0" >&2; exit 2; }
exec dpd generate "$bundle" --require signature --ipc "$ipc" --seed 0 --out "$out" \
    --shard "${SLURM_ARRAY_TASK_ID:-0}/${SLURM_ARRAY_TASK_COUNT:-1}" --json
