"""The entry point ``replkit``: finds commands by name, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
from typing import Any

import click

from replkit import __version__
from replkit.cli.output import fail
from replkit.errors import ReplkitError

INTERRUPTED = 130
COMMANDS = {
    "adopt": "replkit.cli.adopt:adopt",
    "boundaries": "replkit.cli.boundaries:boundaries",
    "command": "replkit.cli.command:command",
    "compare": "replkit.cli.compare:compare",
    "config": "replkit.cli.config:config",
    "copy": "replkit.cli.copy:copy",
    "cut": "replkit.cli.volume:cut",
    "demo": "replkit.cli.demo.command:demo",
    "export": "replkit.cli.export:export",
    "failback": "replkit.cli.roles:failback",
    "failover": "replkit.cli.roles:failover",
    "hold": "replkit.cli.hold:hold",
    "pause": "replkit.cli.volume:pause",
    "plan": "replkit.cli.plan:plan",
    "plugins": "replkit.cli.plugins:plugins",
    "policy": "replkit.cli.policy:policy",
    "pull": "replkit.cli.pull:pull",
    "release": "replkit.cli.hold:release",
    "replica": "replkit.cli.replica:replica",
    "resize": "replkit.cli.resize:resize",
    "restore": "replkit.cli.restore:restore",
    "resume": "replkit.cli.volume:resume",
    "resync": "replkit.cli.roles:resync",
    "reverse": "replkit.cli.roles:reverse",
    "rewind": "replkit.cli.roles:rewind",
    "salvage": "replkit.cli.salvage:salvage",
    "scrub": "replkit.cli.scrub:scrub",
    "s3": "replkit.cli.s3:s3",
    "serve": "replkit.cli.serve:serve",
    "snapshot": "replkit.cli.snapshot:snapshot",
    "status": "replkit.cli.status:status",
    "switchover": "replkit.cli.roles:switchover",
    "verify": "replkit.cli.verify:verify",
    "wait": "replkit.cli.volume:wait",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command of that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes a message and an exit code, without a traceback."""
        try:
            return super().invoke(ctx)
        except ReplkitError as error:
            raise fail(error) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(INTERRUPTED) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="replkit")
def main() -> None:
    """Replicate block volumes: every copy at a consistent boundary, read while it follows.

    Begin with "replkit demo". Exit codes: 0 done, 1 failed, 2 wrong use, 3 inconsistent volume, 4 histories diverged,
    5 fenced by a newer owner, 6 a plan holds no more.
    """
