"""The built-in source: first-person-like kitchen videos, rendered from a seed, in official layouts.

`vocabulary` has the words, `script` decides who does what when, `actions` how it moves, `sprites` and
`painter` how it looks, `narrations` what annotators say, `render` makes files, `layouts` whole data sets.
"""
