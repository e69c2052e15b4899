"""Makes `python -m aiocluster` the same as the command `aiocluster`."""

from aiocluster.ui.cli import main

if __name__ == "__main__":
    main(prog_name="python -m aiocluster")
