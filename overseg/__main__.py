"""``python -m overseg`` is the command line."""

from overseg.cli import main

if __name__ == "__main__":
    main()
