"""Systematic proof of recovery: stories whose every call fails once, and every state that a power failure may leave.

Comes in: minutes (``python -m tests.proof``). Goes out: a table of counts with floors, and exit status 1 below one.
"""
