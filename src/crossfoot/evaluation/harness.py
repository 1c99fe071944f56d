"""The command line of lm-evaluation-harness, which knows the model `crossfoot` here:

python -m crossfoot.evaluation.harness --model crossfoot --model_args pretrained=RUN_DIR --tasks ...
"""

from __future__ import annotations

import sys

from crossfoot.extras import refuse_missing
from crossfoot.verb_exit import exit_code_of, ready_for_weights


def main() -> int:
    """Returns the exit code: its own, or that of what was refused."""
    return exit_code_of(_run, answers=False)


def _run() -> int:
    ready_for_weights("evaluate")
    refuse_missing("the harness", "eval")
    from lm_eval.__main__ import cli_evaluate

    import crossfoot.evaluation.harness_model  # noqa: F401  (the harness knows it from here on)

    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
