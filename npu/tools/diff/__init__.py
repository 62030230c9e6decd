"""Two NPUs side by side: the first instruction, in the order of the program, whose result differs."""

from npu.tools.diff.walk import Difference, Report, compare_levels, joined, show_word

__all__ = [ "Difference", "Report", "compare_levels", "joined", "show_word" ]
