"""Whole sites: real daemons, real clients, real crashes."""
