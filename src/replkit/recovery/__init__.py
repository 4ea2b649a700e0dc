"""Recovery: roles that change, volumes that return to a history they left, and the past of a volume.

Comes in: replicas as ``replication`` makes them, and a way to call other sites. Goes out: steps from one role to
another (``demotion``, ``handover``), services that a driver calls beside those of replication (``ResyncDriver``,
``HandoverService``, ``Draining``, ``Fence``, ``Retention``), what a site answers to others (``PeerService``), and past
boundaries as read-only volumes (``Boundaries``). Everything durable is in the root; nothing here has a thread or clock.
"""
