#!/usr/bin/env bash
# Correctness and speed on one GPU, in at most 7 minutes; with --small on the CPU, in under a minute, to check that all
# of it runs. It needs Python 3.11 or later with torch 2.11, numpy, scipy, numba, safetensors, PyYAML, scikit-learn,
# threadpoolctl, tensorboard, fsspec and pytest, and nothing of asr_kd installed:
#   recipes/bench/gpu.sh --output FOLDER
# It writes results_gpu.json, RESULTS_GPU.md, a profile of 20 training steps and a log into FOLDER, again after each
# part; recipes/bench/gpu.sh --help lists the parts and options.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=python3
[[ ! -x $root/.venv/bin/python ]] || python=$root/.venv/bin/python
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}   # measures this checkout, whatever is installed
exec "${PYTHON:-$python}" "$root/recipes/bench/gpu.py" "$@"
