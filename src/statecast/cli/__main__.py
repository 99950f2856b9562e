"""``python -m statecast.cli``: the command ``statecast``."""

from statecast.cli.commands import main

if __name__ == "__main__":
    main()
