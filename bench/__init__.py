"""What EmerDiff costs here and what it gives: a literal reference, the engines side by side, cost curves.

Start with `README.md`. Nothing imports this package but its tests; it is run from the repository's root.
"""
