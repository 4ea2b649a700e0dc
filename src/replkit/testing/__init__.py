"""The conformance kit, shipped to plugin authors: suites to subclass, runtimes and fault wrappers.

Comes in: a backend, by URL, and what a world tells of ways around it. Goes out: pytest verdicts. ``volume_suite``,
``savevolume_suite`` and ``transport_suite`` are the contracts, ``simulator_suite`` lets a backend take part in the
simulator of ``sim``. Nothing of replkit imports this package; the pytest plugin is ``replkit.testing.plugin``.
"""
