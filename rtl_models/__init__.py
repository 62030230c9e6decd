"""Register-transfer-level models of the blocks: translatable PyMTL3, one file per block."""
