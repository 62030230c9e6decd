"""Functional-level models: each block's pure numpy functions (the specification) and a component."""
