"""The driver: one compiled program over runs and devices."""
