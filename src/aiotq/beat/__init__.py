"""Periodic tasks: when they are due, and what of that is sent."""
