"""One suite for all levels: functional, cycle, register-transfer and Verilog."""
