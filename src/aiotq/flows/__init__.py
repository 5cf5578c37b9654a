"""Durable functions: a flow is a task whose run ends where it waits, and which goes on from a journal of what came."""
