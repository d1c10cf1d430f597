#!/usr/bin/env bash
# Snakemake runs this after it made the environment: flash-attn's build needs the torch installed there.
# It is an extra: `attention: sdpa`, the default, uses torch's own FlashAttention kernel.
set -euo pipefail
pip install --no-build-isolation flash-attn==2.8.3.post2 \
    || echo "flash-attn was not built; the environment is complete without it (use attention: sdpa)" >&2
