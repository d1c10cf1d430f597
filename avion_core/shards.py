"""Shards: videos and texts are divided among a fixed number of jobs, `1-of-n` to `n-of-n`."""

from __future__ import annotations

import re


def shard_numbers(shard: str) -> tuple[int, int]:
    """k and n of "k-of-n". Raises ValueError for anything else, and unless k is from 1 to n."""
    match = re.fullmatch(r"(\d+)-of-(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard '{shard}' is not of the form k-of-n with k from 1 to n")
    return int(match[1]), int(match[2])


def shard_names(shards: int) -> list[str]:
    """Names of all shards, in order."""
    return [f"{number}-of-{shards}" for number in range(1, shards + 1)]
