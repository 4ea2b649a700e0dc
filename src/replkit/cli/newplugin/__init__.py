"""The project that ``replkit plugins new`` writes for the author of a plugin.

Comes in: a name, a kind, a folder. Goes out: an installable distribution that works as it is. ``writing`` makes it of
the files in ``files``: those in ``common`` for every kind, and two for each kind; ``@name@`` and the like are filled
in.
"""
