"""Published claims, checked: `FAMILY/NAME.py`, one claim a file."""
