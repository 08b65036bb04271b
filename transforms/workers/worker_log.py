"""One line of a worker's log, for people and for filters: an event and its facts, as JSON.

Workers log little: nothing for an image, and at most one line for a bundle of a step. A line holds
counts and names of ours. It never holds an image's bytes, its URI or the message of its error:
these lie in the dead letters, and a URI may carry a signature that is as good as a password.
"""

import json
import logging
import re

_log = logging.getLogger("embed-images")

#: Of an http(s) URL the user name, and all behind the path: that is where signatures stand.
_USER = re.compile(r"(\bhttps?://)[^/?#\s]*@", re.IGNORECASE)
_QUERY = re.compile(r"(\bhttps?://[^\s?#]*)[?#]\S*", re.IGNORECASE)

Fact = str | int | float | dict[str, int]


def log_event(level: int, event: str, **facts: Fact) -> None:
    """Write one line.

    Args:
        level: of the module `logging`.
        event: what happened, a name with dashes that filters look for.
        facts: what is to be known of it.

    Example:
        >>> log_event(logging.INFO, "model-loaded", seconds=12.5, gpus=1)
        >>> # INFO embed-images: {"event": "model-loaded", "seconds": 12.5, "gpus": 1}
    """
    # As an argument: a percent sign in it is no format.
    _log.log(level, "%s", json.dumps({"event": event, **facts}))


def without_queries(text: str) -> str:
    """Return a text whose http(s) URLs have neither user names nor queries nor fragments.

    For what leaves a run by other ways than its outputs, such as the message of a job that failed.

    Example:
        >>> without_queries("https://example.org/a.jpg?signature=secret is answered with 403")
        'https://example.org/a.jpg?... is answered with 403'
    """
    return _QUERY.sub(r"\1?...", _USER.sub(r"\1", text))
