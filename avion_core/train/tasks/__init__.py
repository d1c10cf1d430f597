"""What one step computes: each task joins a model with a loss. One module a task, with its setup of a stage.

The loop is in `train/engine.py`.
"""
