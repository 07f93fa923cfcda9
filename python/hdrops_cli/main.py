"""Entry point ``hdrops``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from hdrops_cli.commands import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print("error: typer is not installed; pip install 'hdrops[cli]'", file=sys.stderr)
        sys.exit(2)
    app(sys.argv[1:] or ["--help"])


if __name__ == "__main__":
    main()
