#!/bin/sh
# Makes everything under models/ anew: data, training, export, evaluation, report.
# Needs Python 3.11 or newer; about 40 minutes on two idle cores. The data stays in KARAT_TRAINING_CACHE.
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
rm -f "$KARAT_TRAINING_CACHE/stages.jsonl"
stage() { "$PYTHON" stage.py "$@"; }

stage data data.py
# One stage a core: generators on this one, the auditor's first parts on the other.
{ stage twins auditor_data.py && stage auditor-drawer train_auditor.py drawer && stage auditor-base train_auditor.py base; } & other=$!
for one in guide teacher; do
    stage "$one" train_generator.py "$one"
done
stage smaller train_generator.py smaller & smaller=$!
for one in small exact; do
    stage "$one" train_generator.py "$one"
done
wait "$smaller"
wait "$other"
stage export-generators export_generator.py
stage auditor train_auditor.py final
stage export-auditor export_auditor.py
stage evaluate-auditor evaluate_auditor.py & other=$!
stage evaluate-generators evaluate_generator.py
wait "$other"
"$PYTHON" report.py
"$PYTHON" check.py
