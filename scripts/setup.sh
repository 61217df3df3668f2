#!/bin/sh
# Makes the environment in $VENV: PyTorch for what this machine has, then mgm-dali and its tools.
set -eu

python=${PYTHON:-python3}
venv=${VENV:-.venv}
torch=2.13.0

say() { printf 'setup: %s\n' "$*"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    say "$("$python" --version) is too old: mgm-dali needs Python 3.10 or newer; set PYTHON=..."
    exit 1
}

# The driver decides which CUDA a GPU can use; without a GPU the smaller DALI build does.
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
case "$driver" in
    "") gpu=no dali=cuda13 ;;
    5[0-7]* | 4*) gpu=yes dali=cuda12 ;;
    *) gpu=yes dali=cuda13 ;;
esac
say "GPU: $gpu${driver:+ (driver $driver)}; DALI build: $dali; environment: $venv"

"$python" -m venv "$venv"
pip="$venv/bin/pip --disable-pip-version-check -qq"
$pip install --upgrade pip

if "$venv/bin/python" -c "import torch" 2>/dev/null; then
    say "PyTorch is there"
elif [ "$gpu" = yes ]; then
    say "installing PyTorch $torch for this GPU"
    $pip install uv
    "$venv/bin/uv" pip install --python "$venv" --torch-backend auto "torch==$torch" torchvision
elif $pip install "torch==$torch+cpu" 2>/dev/null; then
    say "installed the CPU build of PyTorch $torch that pip knows of"
else
    say "installing the CPU build of PyTorch $torch"
    $pip install uv
    "$venv/bin/uv" pip install --python "$venv" --torch-backend cpu "torch==$torch" torchvision
fi

# Held fast, so that no other package pulls in another build of it.
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
echo "torch==$torch" > "$constraint"
say "installing mgm-dali with its tools"
$pip install --constraint "$constraint" --editable ".[$dali,dev,hf]"
say "done"
