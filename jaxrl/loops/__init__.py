"""The engines: they own time, devices and memory."""
