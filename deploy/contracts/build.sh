#!/usr/bin/env bash
# Builds the settlement contract from source: build.sh writes artifacts/, build.sh --check only compares.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved --loglevel=error
node compile.mjs "$@"
