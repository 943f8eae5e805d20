"""`python -m unmask.evals ...`: the command line of lm-evaluation-harness, in which `--model unmask` is known.

The same as `lm_eval ...` in a version that looks for models of other packages; 0.4.13 does not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unmask.errors import UnmaskError, UsageError
from unmask.evals.task_names import require_harness, require_known


def register() -> None:
    """Make `unmask` known to the harness, if it is not."""
    from lm_eval.api.registry import model_registry

    if "unmask" not in model_registry:
        model_registry.register("unmask", target="unmask.evals.harness:UnmaskLM")


def require_known_tasks(argv: Sequence[str]) -> None:
    """Raise `UsageError` on a task that the harness does not have, before it has looked through all of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tasks", "-t", nargs="*", default=[])
    parser.add_argument("--include_path")
    options = parser.parse_known_args(argv)[0]
    if options.include_path is None:
        names = [name for text in options.tasks for name in text.split(",") if name]
        require_known([name for name in names if not set(name) & set("*?[/") and not Path(name).exists()])


def main() -> None:
    """Run the harness; an error of ours is one line and an exit status."""
    try:
        require_harness()
        require_known_tasks(sys.argv[1:])
        from lm_eval.__main__ import cli_evaluate

        register()
        try:
            cli_evaluate()
        except ValueError as error:
            if not str(error).startswith("Tasks not found"):
                raise
            raise UsageError(f"{error}: `python -m unmask.evals ls tasks` lists all") from None
    except UnmaskError as error:
        print(f"unmask.evals: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
