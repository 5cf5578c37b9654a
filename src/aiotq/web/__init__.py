"""Seen from outside: health and metrics over HTTP (P10: watching changes nothing)."""
