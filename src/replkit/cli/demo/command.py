"""``replkit demo``."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click


@click.command(short_help="See a disk being replicated, on this machine.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Where (default: the state directory of the user)."
)
@click.option("--size", default="1GiB", show_default=True, help="Size of the image that is made.")
@click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Use a copy of this image.")
@click.option("--rounds", type=click.IntRange(min=3), default=20, show_default=True, help="Rounds of changes.")
@click.option("--keep-running", is_flag=True, help="Leave both sites running at the end, until Ctrl-C.")
def demo(folder: Path | None, size: str, image: Path | None, rounds: int, keep_running: bool) -> None:
    """Two sites on this machine: a real file system is written through NBD while a secondary is made and follows.

    In the end both are compared block for block, and the secondary's file system is checked. Needs no root and at most
    three times the space of the image's files. Run it again as often as you like.
    """
    from replkit.cli.demo.screen import Screen
    from replkit.cli.demo.story import DemoOptions, run_demo
    from replkit.site.names import state_home
    from replkit.site.sizes import parse_size

    options = DemoOptions(
        folder=(folder or state_home() / "demo").absolute(),
        size_bytes=parse_size(size),
        image=image,
        rounds=rounds,
        keep_running=keep_running,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    screen = Screen()
    try:
        run_demo(options, screen)
    except KeyboardInterrupt:
        click.echo("interrupted: both sites were ended cleanly")  # not by the screen, which may be in mid-line
        raise SystemExit(0 if keep_running else 130) from None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Interrupt once: a second Ctrl-C must not cut short the end of the daemons."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
