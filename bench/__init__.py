"""The cost of EmerDiff and the quality of its masks: a literal reference, the engines compared, cost curves.

Start with `README.md`. Nothing imports this package but its tests; it is run from the repository's root.
"""
