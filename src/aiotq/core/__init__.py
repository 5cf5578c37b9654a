"""Primitives that know no tasks: settings, time, values, asyncio, logs."""
