"""Metrics as the benchmarks define them, and the runner that applies them to a trained stage."""
