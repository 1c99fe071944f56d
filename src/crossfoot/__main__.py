"""`python -m crossfoot` is `crossfoot`."""

import sys

from crossfoot.cli import main

sys.exit(main())
