"""One training engine, its tasks, and the five stages that are made of them."""
