"""The snapshot copy facility: many snapshots of a volume, old blocks saved on the first write after one (group P).

Comes in: a volume, a save volume, a snapshot table and a runtime. Goes out: ``SnappedVolume``, the same volume with
before-images, in-use map and write intents; ``Snapshot`` and ``SnapshotReader``, read-only volumes of the past, in
the writer's process and in any other. ``Gate``, ``RangeLock`` and ``IntentLog`` serve the layers above as well.
"""
