"""Declaring tasks: options, the task, the registry, the request, retries."""
