#!/usr/bin/env bash
# All that is measured on one GPU, in under ten minutes and with no network; what is not installed is left out by name:
#     [NANOGPT=checkout] [REPEATS=2] [RESULTS=folder] benchmarks/gpu.sh [OPTIONS of train.py]
# DEVICE=cpu and options for a small model try it out where there is none; DECODE and ATTENTION hold more options of
# decode.py and attention.py.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda}
repeats=${REPEATS:-2}
results=${RESULTS:-benchmarks/results}
export HF_HUB_OFFLINE=1
failed=()

run() { # one that fails does not stop those after it
    echo "== $*"
    python "$@" || failed+=("$1")
}

run benchmarks/train.py --workload w3 --device "$device" --repeats "$repeats" \
    ${NANOGPT:+--nanogpt "$NANOGPT"} --out "$results/train-gpu.json" "$@"
run benchmarks/decode.py --device "$device" --repeats "$repeats" ${DECODE:-} --out "$results/decode-gpu.json"
run benchmarks/attention.py --device "$device" --seconds 0.1 ${ATTENTION:-} --out "$results/attention-gpu.json"
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
