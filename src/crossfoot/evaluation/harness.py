"""The command line of lm-evaluation-harness, which knows the model `crossfoot` here:

python -m crossfoot.evaluation.harness --model crossfoot --model_args pretrained=RUN_DIR --tasks ...
"""

from __future__ import annotations

import sys

from crossfoot.extras import refuse_missing
from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import show


def main() -> int:
    """Returns the exit code: 0, or that of what was refused."""
    try:
        _run()
    except Refused as refused:
        show(refused.findings)
        return refused.exit_code
    return 0


def _run() -> None:
    refuse_missing("the harness", "train")
    refuse_missing("the harness", "harness")
    from crossfoot.models.quiet import hush_libraries

    hush_libraries()
    from lm_eval.__main__ import cli_evaluate

    import crossfoot.evaluation.harness_model  # noqa: F401  (the harness knows it from here on)

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
