"""One section of docs/cycles.md per block."""
