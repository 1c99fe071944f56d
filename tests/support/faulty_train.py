"""train.py with a fault around it: the one that CROSSFOOT_TEST_FAULT names."""

import os
import sys

from crossfoot.cli import main
from support.faults import FAULTS

if __name__ == "__main__":
    with FAULTS[os.environ["CROSSFOOT_TEST_FAULT"]](int(os.environ.get("RANK", "0"))):
        code = main(["train", *sys.argv[1:]])
    sys.exit(code)
