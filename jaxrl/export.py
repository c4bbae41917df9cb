"""`python -m jaxrl.export RUN`: Writes a run's policy for use without jaxrl. The code is in `jaxrl/cli/export.py`."""

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from jaxrl.cli.export import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
