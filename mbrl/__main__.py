"""`python -m mbrl` is the command `mbrl`."""

import sys

from mbrl.cli import main

sys.exit(main())
