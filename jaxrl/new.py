"""`python -m jaxrl.new my_task.py` writes the template of a task. The code is in `jaxrl/cli/new.py`."""

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from jaxrl.cli.new import main
from jaxrl.report import terminal

if __name__ == "__main__":
    terminal.run(main)
