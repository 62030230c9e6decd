"""Cycle-level models of the blocks: the values of `fl/`, and the time they take, cycle by cycle."""
