"""Arithmetic on block numbers: extents, paged bit maps, block maps. No I/O, no clock, no locks.

Comes in: block numbers. Goes out: sets and maps of them whose memory is in proportion to what they hold, for
volumes from 1 MiB to 64 TiB.
"""
