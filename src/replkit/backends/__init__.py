"""The backends that come with replkit: files, S3 buckets, memory, TCP, and the local transport.

Comes in: a URL and options, from the registry. Goes out: a ``BlockVolume``, ``SaveVolume`` or ``Transport``. Each
registers itself through the same hooks as anyone else's plugin; none imports another, and nothing imports them.
"""
