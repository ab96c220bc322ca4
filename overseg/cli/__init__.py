"""The command line: one thin function per command over the public functions of `overseg`."""

from overseg.cli.app import app, main

__all__ = ["app", "main"]
