#!/bin/sh
# The first minutes on a card, in one command: is everything right, how fast is it, where does it differ
# from the estimate? At most nine minutes, no network, nothing beyond CUDA; what is missing is left out.
#
#   tools/gpu-first-run.sh [PATH OF imfd]      default: build/cuda/server/imfd, or bin/imfd of a bundle
#
# Everything is left in one folder, gpu-first-run-TIME, with summary.md to read first. Steps run in the
# order of their worth; when the time is over the rest is left out.
#
#   FIRST_RUN_SECONDS=540 (more of it gives every step more)   FIRST_RUN_GPU=H100 (whose estimate)   FIRST_RUN_OUT=folder
#   FIRST_RUN_MODEL="--model MiT_XL_2 --decoder sd-vae"   FIRST_RUN_BATCHES=1,8,64   FIRST_RUN_SUSTAIN=20
#   FIRST_RUN_FULL="--full MiT_XL_2" (of selfcheck)
set -u
here=$(cd "$(dirname "$0")" && pwd)
imfd=${1:-}
for candidate in "$here/../build/cuda/server/imfd" "$here/../build/release/server/imfd" "$here/../bin/imfd"; do
    [ -n "$imfd" ] || ! [ -x "$candidate" ] || imfd=$candidate
done
[ -x "$imfd" ] || { echo "gpu-first-run.sh: no imfd; name one" >&2; exit 2; }

out=${FIRST_RUN_OUT:-gpu-first-run-$(date +%Y%m%d-%H%M%S)}
seconds=${FIRST_RUN_SECONDS:-540}
gpu=${FIRST_RUN_GPU:-H100}
model=${FIRST_RUN_MODEL:---model MiT_XL_2 --decoder sd-vae}
batches=${FIRST_RUN_BATCHES:-1,8,64}
sustain=${FIRST_RUN_SUSTAIN:-20}
full=${FIRST_RUN_FULL:---full MiT_XL_2}
mkdir -p "$out" || exit 2
begin=$(date +%s)
failed=0
: >"$out/steps.txt"

have() { command -v "$1" >/dev/null 2>&1; }

# step NAME LIMIT COMMAND...: output to NAME.txt, exit status and seconds to steps.txt.
step() {
    name=$1 limit=$(($2 * seconds / 540))
    shift 2
    left=$((begin + seconds - $(date +%s)))
    if [ "$left" -lt 5 ]; then
        echo "$name left-out 0" >>"$out/steps.txt"
        echo "left out, no time: $name"
        return
    fi
    [ "$limit" -le "$left" ] || limit=$left
    printf '%-16s ' "$name"
    start=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1
    status=$?
    spent=$(($(date +%s) - start))
    echo "$name $status $spent" >>"$out/steps.txt"
    if [ "$status" = 0 ]; then
        echo "ok, $spent s"
    else
        echo "exit status $status after $spent s"
        failed=1
    fi
}

# missing NAME WHAT: a step for which something is not there.
missing() {
    echo "$1 missing 0" >>"$out/steps.txt"
    echo "$1: left out, no $2"
}

versions() {
    "$imfd" --version
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    nvidia-smi 2>/dev/null || echo "no nvidia-smi"
    nvidia-smi -q -d CLOCK,POWER,TEMPERATURE 2>/dev/null
    nvcc --version 2>/dev/null || echo "no nvcc"
    ls -l "$(dirname "$imfd")"/../engine/cuda/libimf_cuda.so "$(dirname "$imfd")"/../lib/imfd/libimf_cuda.so 2>/dev/null
    return 0
}

versions >"$out/versions.txt" 2>&1
step selfcheck-fp32 90 env CUBLASLT_LOG_LEVEL=5 CUBLASLT_LOG_FILE="$out/cublaslt-fp32.log" \
    "$imfd" selfcheck --device cuda --precision fp32 --sustain 0 --verbose
step selfcheck-bf16 90 env CUBLASLT_LOG_LEVEL=5 CUBLASLT_LOG_FILE="$out/cublaslt-bf16.log" \
    "$imfd" selfcheck --device cuda --precision bf16 --sustain 0 --verbose
# shellcheck disable=SC2086 # $model is several words
step bench 150 "$imfd" bench --device cuda $model --batch "$batches" --json
# shellcheck disable=SC2086
step estimate 60 "$imfd" bench --roofline "$gpu" $model --batch "$batches" --json
# The convolution that waits for its first card, on the GPUs that have its instructions.
if nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -q '^9\.0'; then
    step selfcheck-sm90 60 env IMFD_CONV_SM90=1 "$imfd" selfcheck --device cuda --precision bf16 --sustain 5 --verbose
    # shellcheck disable=SC2086
    step bench-sm90 120 env IMFD_CONV_SM90=1 "$imfd" bench --device cuda $model --batch "$batches" --json
else
    missing selfcheck-sm90 "GPU of compute capability 9.0"
fi
# shellcheck disable=SC2086
step selfcheck-full $((sustain + 180)) "$imfd" selfcheck --device cuda --precision bf16 --sustain "$sustain" $full
if have python3 && python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    step yardsticks 90 python3 "$here/gpu-yardsticks.py"
else
    missing yardsticks "PyTorch with CUDA"
fi
if have ncu; then
    # shellcheck disable=SC2086
    step ncu 90 ncu --set basic --kernel-name 'regex:conv3x3|attention_bf16|apply|rms_norm|swiglu' \
        --launch-skip 40 --launch-count 24 "$imfd" bench --device cuda $model --batch 8 --rounds 1
else
    missing ncu "Nsight Compute"
fi
if have compute-sanitizer; then
    step sanitizer 120 compute-sanitizer --error-exitcode 1 "$imfd" selfcheck --device cuda --precision bf16 --sustain 0
else
    missing sanitizer "compute-sanitizer"
fi

if have python3; then
    python3 "$here/gpu-first-run.py" "$out" | tee "$out/summary.md"
    [ -s "$out/summary.md" ] || failed=1
else
    cp "$out/steps.txt" "$out/summary.md"
fi
echo
echo "all of it: $out"
exit "$failed"
