"""`python -m unmask.evals ...`: the command line of lm-evaluation-harness, in which `--model unmask` is known.

The same as `lm_eval ...` in a version that looks for models of other packages; 0.4.13 does not.
"""

import sys

from unmask.errors import UnmaskError
from unmask.evals.evaluate import require_harness


def register() -> None:
    """Make `unmask` known to the harness, if it is not."""
    from lm_eval.api.registry import model_registry

    if "unmask" not in model_registry:
        model_registry.register("unmask", target="unmask.evals.harness:UnmaskLM")


def main() -> None:
    """Run the harness; an error of ours is one line and an exit status."""
    try:
        require_harness()
        from lm_eval.__main__ import cli_evaluate

        register()
        cli_evaluate()
    except UnmaskError as error:
        print(f"unmask.evals: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
