"""What runs: a site's configuration, its supervisor and worker processes, its control socket, its NBD server.

Comes in: a configuration file, commands on the control socket, NBD clients, links of peers, signals. Goes out: volumes
served over NBD, services stepped by threads, status. ``supervisor`` starts a worker process for each thing that must
not share an interpreter with another (``plan``): ``primary`` serves a volume, cuts and trims; ``senders`` sends its
sets; ``replica`` receives, plays and serves views. ``config`` checks the file, ``control`` is the protocol, ``api`` the
same for one process.
"""
