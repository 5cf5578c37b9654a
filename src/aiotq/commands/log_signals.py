"""Lets an app set up the logging of `aiotq worker` itself, or add to it."""

from __future__ import annotations

import logging

from ..signals import after_setup_logger, after_setup_task_logger, setup_logging


def tell_logging(level: str, handler: logging.Handler) -> None:
    """Tell the signals of logging, now that the app is imported; `handler` is what was set up until then.

    If anybody is connected to `setup_logging`, that handler is taken away: logging is theirs.
    """
    how = {"loglevel": logging.getLevelNamesMapping()[level], "logfile": None, "format": None, "colorize": None}
    if setup_logging.receivers:
        logging.getLogger().removeHandler(handler)
        setup_logging.send_now(None, **how)
        return
    after_setup_logger.send_now(None, logger=logging.getLogger(), **how)
    after_setup_task_logger.send_now(None, logger=logging.getLogger("aiotq.task"), **how)
