"""The command line: one verb, one public function."""

from nearsight.cli.commands import app, main

__all__ = ["app", "main"]
