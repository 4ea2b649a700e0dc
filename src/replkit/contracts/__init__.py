"""What replkit asks of everything that it does not do itself.

Comes in: nothing but block arithmetic. Goes out: the abstract ``BlockVolume``, ``SaveVolume``, ``Transport`` and
``Link``, the ``Runtime`` (clock, locks, randomness), ``Message`` with its framing, ``Position``, the hook
specifications, and the registry that opens backends by URL with the guard around them.
"""
