#!/bin/sh
# Makes everything under models/ anew: data, training, export, evaluation, report.
# Needs Python 3.11 or newer; about 40 minutes on two cores. The data stays in KARAT_TRAINING_CACHE.
set -eu
cd "$(dirname "$0")"
: "${KARAT_TRAINING_CACHE:=${TMPDIR:-/tmp}/karat-training}"
export KARAT_TRAINING_CACHE OMP_NUM_THREADS=1
mkdir -p "$KARAT_TRAINING_CACHE"
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$KARAT_TRAINING_CACHE/venv"
    PYTHON="$KARAT_TRAINING_CACHE/venv/bin/python"
    "$PYTHON" -m pip install --quiet -r requirements.txt
fi
"$PYTHON" train.py auditor-base
"$PYTHON" train.py generator
"$PYTHON" train.py settle
"$PYTHON" train.py pairs
"$PYTHON" train.py polish
"$PYTHON" train.py exact
"$PYTHON" train.py auditor
"$PYTHON" export.py
"$PYTHON" evaluate.py
"$PYTHON" check.py
