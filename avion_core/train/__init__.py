"""The training engine, its tasks, and the stages built from them."""
