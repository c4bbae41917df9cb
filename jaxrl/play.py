"""`python -m jaxrl.play RUN`: Evaluates a run and films an episode. The code is in `jaxrl/cli/play.py`."""

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from jaxrl.cli.play import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
