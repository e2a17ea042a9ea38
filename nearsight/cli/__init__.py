"""The command line: one verb, one public function."""

import sys

try:
    from nearsight.cli.commands import app, main
except KeyboardInterrupt:  # Ctrl-C while modules load: nothing has begun
    print("error: stopped; the same command goes on from here", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["app", "main"]
