"""`python -m jaxrl.plot RUN`: Draws learning curves. The code is in `jaxrl/cli/plot.py`."""

from jaxrl.cli.plot import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
