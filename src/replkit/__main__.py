"""``python -m replkit`` is the command ``replkit``."""

from replkit.cli.main import main

if __name__ == "__main__":
    main(prog_name="replkit")
