"""Two NPUs side by side: the first instruction, in the order of the program, whose result differs.

A machine at levels with cycles works on several instructions at once. What it does is recorded at the ports of its
units, where every level does the same: commands, answers, and writes in their order. A `Follower` then goes through the
program one instruction at a time, as the functional NPU does, and takes each result from the recording instead of
computing it. So two machines, or a machine and the functional NPU, are compared instruction by instruction, whatever
their timing. The second one stops at the first difference.
"""

from npu.tools.diff.difference import Difference, joined, show_word
from npu.tools.diff.side_by_side import Report, compare_levels, diff

__all__ = [ "Difference", "Report", "compare_levels", "diff", "joined", "show_word" ]
