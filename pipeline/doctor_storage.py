"""Whether the storage that a configuration names can be reached with the present credentials."""

import re
import threading
import time
from collections.abc import Sequence

from pipeline.config import JobConfig
from transforms.networks.model_checks import Finding, run_check

#: For all locations together. The libraries themselves try again for minutes.
SECONDS = 20.0

_BEAM_FOLDERS = ("temp_location", "staging_location")


def storage_locations(config: JobConfig) -> tuple[str, ...]:
    """Return the gs:// locations that the configuration names, each once."""
    flags = config.beam.flags()
    named = [
        *(pattern.removeprefix("@") for pattern in config.input.patterns),
        *filter(None, [config.output.path]),
        config.model.handle,
        *(str(flags[name]) for name in _BEAM_FOLDERS if name in flags),
    ]
    return tuple(dict.fromkeys(each for each in named if each.startswith("gs://")))


def check_storage(locations: Sequence[str], seconds: float = SECONDS) -> list[Finding]:
    """Try to list each gs:// location; none of them can hold up the others.

    Nothing is written, so that a bucket which may be read only is found to be well.

    Args:
        locations: gs:// folders, files and patterns.
        seconds: after which a location that has not answered counts as failed, for all together.
    """
    answers: dict[str, Finding] = {}
    # Daemons: a call that hangs must not keep the process from ending.
    threads = [
        threading.Thread(target=_list_into, args=(answers, each, seconds), daemon=True)
        for each in locations
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    findings = [answers.get(each) or _no_answer(each, seconds) for each in locations]
    if not findings:
        seen = "the configuration names no gs:// location"
        findings.append(Finding("cloud storage", "skipped", seen))
    return findings


def _no_answer(location: str, seconds: float) -> Finding:
    return Finding(
        "cloud storage",
        "failed",
        f"{location}: no answer within {seconds:g} s",
        "look at the network, a proxy and the credentials (gcloud auth application-default login)",
    )


def _list_into(answers: dict[str, Finding], location: str, seconds: float) -> None:
    answers[location] = run_check("cloud storage", lambda: _list(location, seconds))


def _list(location: str, seconds: float) -> Finding:
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.cloud import storage
    from requests.exceptions import RequestException

    bucket, _, pattern = location.removeprefix("gs://").partition("/")
    prefix = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    try:
        client = storage.Client(project=None)
        listing = client.list_blobs(
            bucket, prefix=prefix, max_results=1, timeout=seconds, retry=None
        )
        found = len(list(listing))
    except (DefaultCredentialsError, OSError, ValueError) as error:
        if isinstance(error, RequestException):
            return _failed(
                location, f"it cannot be reached: {_short(error)}", "look at the network"
            )
        advice = "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        return _failed(location, f"there are no usable credentials: {_short(error)}", advice)
    except GoogleAuthError as error:
        advice = "renew them: gcloud auth application-default login"
        return _failed(location, f"the credentials are refused: {_short(error)}", advice)
    except NotFound:
        return _failed(location, f"there is no bucket {bucket}", "correct its name, or make it")
    except (Forbidden, Unauthorized) as error:
        advice = "give this account the role Storage Object Viewer on the bucket"
        return _failed(location, f"these credentials may not list it: {_short(error)}", advice)
    except GoogleAPIError as error:
        return _failed(location, f"the storage answers: {_short(error)}", "try again later")
    what = "can be listed" if found else "can be listed, and nothing lies there yet"
    return Finding("cloud storage", "ok", f"{location} {what}; writing was not tried")


def _failed(location: str, problem: str, advice: str) -> Finding:
    return Finding("cloud storage", "failed", f"{location}: {problem}", advice)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
