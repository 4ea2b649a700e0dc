"""Replication: from the writes at a primary to a boundary at every secondary.

Comes in: a block volume and a save volume a replica, a ``Transport``, a ``Runtime``, hooks. Goes out: the services
(cutter, sender, receiver, player, trimmer), each with a bounded ``step()`` that a driver calls, and the facades
``PrimaryReplica`` and ``SecondaryReplica`` that put them together. No service has a loop, a sleep, a thread, or state
that it could not rebuild from the save volume; ``cells.py`` is the one table of what is durable and who writes it.
"""
