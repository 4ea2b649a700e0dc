"""The simulator: real services over simulated disks, save volumes and network, driven step by step from a seed.

Comes in: a seed. Goes out: a run in which machines lose power at any call, links break at any message, and an
independent model checks after each step what the invariants say. The same seed gives the same run.
"""
