"""crossfoot as a user starts it: the verb train, with plan, ledger and receipt."""

from __future__ import annotations

import sys

from clock import begin

job = begin(ends_process=False)

from crossfoot.cli import main  # noqa: E402

sys.exit(main(["train", str(job.config)]))
