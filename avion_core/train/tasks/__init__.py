"""Tasks: the computation of one training step, which joins a model with a loss. One module per task.

The loop is in `train/engine.py`.
"""
