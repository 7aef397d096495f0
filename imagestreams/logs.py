"""Log lines: one JSON object each, or coloured text for people; our own and those of libraries alike. To stderr."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure(level: str, form: str) -> None:
    """Set up structlog and the standard library's logging.

    `level` is a name in lower case, `form` "json" or "console".
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
        if form == "json"
        else [_console()]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_strip, *rendered]))
    # Libraries say at INFO what we say better (APScheduler: two lines a tick).
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _console() -> Processor:
    """The default formatter of tracebacks shows local variables where rich is installed, credentials among them."""
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _dumps(line: object, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()


_strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
