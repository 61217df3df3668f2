#!/bin/sh
# Gathers evidence on a machine with an NVIDIA GPU: runs/gpu_evidence.json, and tables beside it.
# `scripts/gpu_evidence.sh --help` names the options; PYTHON names another interpreter, which must
# have what mgm-dali needs (the project itself is taken from this checkout).
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || {
    printf 'gpu_evidence: no %s: run `make .venv/ready`, or set PYTHON=...\n' "$python" >&2
    exit 2
}
# Where containers get the driver's libraries, of which the linker may not know.
for folder in /usr/local/nvidia/lib*; do
    if [ -d "$folder" ]; then
        export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
    fi
done
export OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/scripts/gpu_evidence.py" "$@"
