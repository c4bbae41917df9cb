"""`python -m jaxrl.data IN OUT`: Converts a data set. The code is in `jaxrl/cli/convert.py`."""

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from jaxrl.cli.convert import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
