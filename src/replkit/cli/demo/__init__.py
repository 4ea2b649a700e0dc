"""The demo: two sites on this machine, a real file system, a copy made while it is written to.

Comes in: a folder, a size or an image. Goes out: the folder with two sites that can be looked at and started again.
``image`` makes and changes file systems, ``sites`` writes configurations and runs daemons, ``rounds`` writes changes
over NBD, ``screen`` shows progress, ``story`` tells it all in order.
"""
