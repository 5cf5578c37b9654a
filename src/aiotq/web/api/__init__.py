"""The JSON API: what the command line tells with `--json`, and what operators do, over HTTP."""

from .routes import Caller, api_routes

__all__ = ["Caller", "api_routes"]
