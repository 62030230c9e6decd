"""Verilog generation, lint, Verilated simulation and synthesis reports."""
