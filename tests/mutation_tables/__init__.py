"""One table of mutations per block."""
