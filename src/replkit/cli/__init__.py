"""The command line: one file a command group.

Comes in: arguments of a user and, from the daemon's control socket, results. Goes out: tables for people, JSON with a
``schema_version`` for programs, errors with a hint and no traceback, and exit codes. Nothing here decides anything:
commands ask the daemon. Modules import lazily, so that ``replkit --help`` answers at once.
"""
