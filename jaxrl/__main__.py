"""`python -m jaxrl COMMAND ...`; see `jaxrl/cli/commands.py`."""

import sys

from jaxrl.cli.commands import main

sys.exit(main())
