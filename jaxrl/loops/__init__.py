"""The engines. They own time, devices and memory; methods own the mathematics."""
