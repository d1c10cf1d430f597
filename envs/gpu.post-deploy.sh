#!/usr/bin/env bash
# Snakemake runs this after it made the environment: flash-attn's build needs the torch installed there.
set -euo pipefail
pip install --no-build-isolation flash-attn==2.8.3.post2
