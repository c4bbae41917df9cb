"""`python -m jaxrl.plot RUN`: Draws learning curves. The code is in `jaxrl/cli/plot.py`."""

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from jaxrl.cli.plot import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
