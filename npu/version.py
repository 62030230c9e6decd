"""The version of the installed project."""

from importlib.metadata import version

__version__ = version( "npu-qwen2" )
