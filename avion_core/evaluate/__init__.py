"""Metrics as the benchmarks define them, and the runner that evaluates a trained stage."""
