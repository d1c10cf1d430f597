"""The library behind the workflow: video I/O, data sets, narration, models, training, evaluation, report."""
