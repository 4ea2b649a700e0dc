"""Save volumes and volumes in a bucket, over a store of objects that can do five things.

Comes in: an ``ObjectStore`` (put, create-only put, get of a range, list, delete) from a backend. Goes out: cells that
fence (``CellStore``), a ``SaveVolume`` and a ``BlockVolume``. What real stores do and do not, and therefore what is
relied upon here, is in the docstrings of ``store`` and ``cells``. No clock, no thread, no network of its own.
"""
