"""The built-in source: first-person-like kitchen videos, rendered from a seed, in official layouts.

`vocabulary` has the words, `script` the sequence of actions, `actions` their motion, `sprites` and `painter`
their look, `narrations` the annotators' sentences; `render` makes files, `layouts` whole data sets.
"""
