#!/usr/bin/env bash
# Builds the settlement contract and the golden roots of the tests from their sources.
# build.sh writes them, build.sh --check only compares. Needs node and npm.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved --loglevel=error
node compile.mjs "$@"
node golden-roots.mjs "$@"
