"""A plugin's own volume, save volume or transport as a part of one site of the simulator.

Comes in: a backend, by a function that opens it. Goes out: the devices of a simulated site that carry every call out on
the backend too, and compare what it answers with the simulator's model, call by call and after each power failure.
``disk``, ``save`` and ``links`` are the three contracts, ``devices`` gives them to a world, ``story`` has the standard
scenarios. The suites that authors subclass are in ``replkit.testing.simulator_suite``.
"""
