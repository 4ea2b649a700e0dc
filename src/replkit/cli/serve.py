"""``replkit serve``: the daemon of a site."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Run a site as a daemon.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The site's TOML file.")
@click.option(
    "--until-stdin-ends", is_flag=True, hidden=True, help="End when standard input ends (for a parent program)."
)
def serve(config_path: Path, until_stdin_ends: bool) -> None:
    """Run a site in the foreground: its volumes over NBD, its change log, senders and receivers.

    For systemd: Type=notify, KillMode=mixed. SIGTERM ends it cleanly, and a restart goes on where it was.
    """
    from replkit.site.config import load_config
    from replkit.site.logs import set_up_logging
    from replkit.site.supervisor import Supervisor

    config = load_config(config_path)
    set_up_logging(config.site)
    supervisor = Supervisor(config, config_path)
    if until_stdin_ends:
        supervisor.end_with_stdin()
    supervisor.run()
