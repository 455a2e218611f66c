#!/usr/bin/env bash
# What has to be seen on one GPU, in two calls of under ten minutes each; one line and exit 0 where there is no GPU.
#
#   bench/gpu.sh first     what no CPU could tell, in checks that print as they end; writes gpu_first.txt into
#                          ${OUT:-build}. Names of checks (bench/gpu_checks.py) after it choose some. Exit 1 if one failed
#   bench/gpu.sh table     goal 9, on a GPU of 80 GB or more: prints the table and what `slam-asr plan` predicted of its
#                          memory; writes gpu.txt and gpu.json into ${OUT:-build}
#   bench/gpu.sh wheels    for a machine without network: fetches what it lacks beside PyTorch and transformers into
#                          bench/wheels (some 10 MB, ignored by git), in the versions of constraints.txt
#
# Python is ${PYTHON:-python3}. Wheels are for Python ${WHEELS_PYTHON:-3.12} on x86-64 Linux; if bench/wheels is there,
# they are installed from it into a private folder, which is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
packages=(deepspeed hjson pydantic pydantic-core annotated-types typing-inspection soundfile miniaudio isal cffi
    pycparser webdataset braceexpand jiwer rapidfuzz prometheus-client)

call=${1:-}
case $call in
first) run=(bench.gpu_first "${@:2}") ;;
table) run=(bench.gpu "${@:2}") ;;
wheels) ;;
*)
    echo "bench/gpu.sh: say first, table or wheels${call:+, not $call}" >&2
    exit 2
    ;;
esac
if [ "$call" = wheels ]; then
    mkdir -p bench/wheels
    echo '*' >bench/wheels/.gitignore
    for package in "${packages[@]}"; do
        if [ "$package" = deepspeed ]; then # published as source only; without compiled operators it fits any Python
            DS_BUILD_OPS=0 "$python" -m pip wheel -q --no-deps -c constraints.txt -w bench/wheels deepspeed
            continue
        fi
        "$python" -m pip download -q --no-deps --only-binary=:all: -c constraints.txt -d bench/wheels \
            --implementation cp --python-version "${WHEELS_PYTHON:-3.12}" \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 --platform manylinux1_x86_64 "$package"
    done
    du -sh bench/wheels
    exit
fi

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no GPU here: nothing to do"
    exit 0
fi
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G 'bench/wheels/*.whl' >/dev/null; then
    "$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" bench/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
timeout 590 "$python" -m "${run[@]}" --out "${OUT:-build}"
