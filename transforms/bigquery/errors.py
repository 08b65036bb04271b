"""What goes wrong with BigQuery: what to try again, and what to tell the user to change."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError, TransportError
from requests.exceptions import ChunkedEncodingError, SSLError, Timeout
from requests.exceptions import ConnectionError as RequestsConnectionError

from transforms.errors import JobError, RefusedData, RequestError

#: For how long a request that fails for the moment is repeated.
PATIENCE_SECONDS = 600.0

# https://cloud.google.com/bigquery/docs/error-messages
_TRANSIENT_REASONS = frozenset(
    (
        "backendError",
        "badGateway",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "rateLimitExceeded",
        "tableUnavailable",
    )
)
_TRANSIENT_CODES = frozenset((429, 500, 502, 503, 504))
# Two statements have changed one table at the same time; BigQuery gives one of them up.
_TRANSIENT_MESSAGES = re.compile(
    r"could not serialize access|aborted due to concurrent update", re.IGNORECASE
)
_BROKEN_CONNECTIONS = (
    ConnectionError,
    RequestsConnectionError,
    ChunkedEncodingError,
    Timeout,
    TransportError,
)

_MISSING = {
    "dataset": "create the dataset with `bq mk --dataset PROJECT:DATASET`, or correct its name or "
    "its location",
    "project": "correct the project",
}


def patient_retry(patience_seconds: float = PATIENCE_SECONDS) -> Retry:
    """Return the policy for a request: repeat it, ever later, while it fails for the moment."""
    return Retry(
        predicate=is_transient, initial=0.5, maximum=30.0, multiplier=2.0, timeout=patience_seconds
    )


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may well succeed later.

    So it is after 429, 500, 502, 503, 504 and what BigQuery calls them, after a broken
    connection, and where two statements changed one table at once.
    """
    if isinstance(error, SSLError):
        return False
    if isinstance(error, _BROKEN_CONNECTIONS):
        return True
    if not isinstance(error, GoogleAPICallError):
        return False
    return _is_passing(error.code, _reason(error), str(error.message))


def _is_passing(code: int | None, reason: str | None, message: str) -> bool:
    if _TRANSIENT_MESSAGES.search(message):
        return True
    # rateLimitExceeded comes with 403.
    return code in _TRANSIENT_CODES or reason in _TRANSIENT_REASONS


def _reason(error: GoogleAPICallError) -> str | None:
    for detail in error.errors or ():
        if isinstance(detail, Mapping) and detail.get("reason"):
            return str(detail["reason"])
    return None


@dataclass(frozen=True, slots=True)
class JobProblem:
    """Why a job of BigQuery failed."""

    reason: str
    message: str
    project: str

    @classmethod
    def of(cls, job: Any) -> "JobProblem | None":
        """Return why a job that is done failed; None if it did not."""
        result = job.error_result
        if not result:
            return None
        # The first of the errors is the same one again; the others name rows and files.
        others = [error.get("message", "") for error in (job.errors or ())][:4]
        messages = dict.fromkeys([result.get("message", ""), *others])
        text = f"{'; '.join(filter(None, messages))} (job {job.project}:{job.job_id})"
        return cls(str(result.get("reason", "")), text, job.project)

    @property
    def is_transient(self) -> bool:
        """Whether the same job may well succeed later."""
        return _is_passing(None, self.reason, self.message)

    @property
    def is_refused_data(self) -> bool:
        """Whether a load has failed for what its files hold; those of another schema aside."""
        return self.reason == "invalid" and "schema does not match" not in self.message.lower()

    def as_error(self) -> JobError:
        """The error to raise, with what to grant or change."""
        kind = RefusedData if self.is_refused_data else JobError
        return kind(_with_advice(self.message, self.reason, self.project))


@contextmanager
def explained_errors(project: str) -> Iterator[None]:
    """Turn an error of BigQuery's client into a `JobError` that says what to grant or change."""
    try:
        yield
    except RetryError as error:
        raise JobError(f"BigQuery keeps failing; the last error was: {error.cause}") from error
    except GoogleAPICallError as error:
        reason = _reason(error) or {401: "authError", 403: "accessDenied", 404: "notFound"}.get(
            error.code or 0, ""
        )
        raise JobError(_with_advice(_plain(error), reason, project)) from error
    except GoogleAuthError as error:
        raise JobError(_with_advice(str(error), "authError", project)) from error
    except (RequestsConnectionError, Timeout) as error:
        raise JobError(f"BigQuery cannot be reached: {error}") from error


@contextmanager
def request_errors() -> Iterator[None]:
    """Before any work has begun a `JobError` is a `RequestError`: the command exits with 2."""
    try:
        yield
    except JobError as error:
        raise RequestError(str(error)) from error


def _plain(error: GoogleAPICallError) -> str:
    """The message without the request's line, and without the job that never came to be."""
    message = re.sub(r"^[A-Z]+ https?://\S+: ", "", str(error.message))
    return message.split("\n\nLocation: ", 1)[0].strip()


def _with_advice(message: str, reason: str, project: str) -> str:
    advice = _advice(message, reason, project)
    return f"BigQuery: {message.rstrip('. ')}; {advice}" if advice else f"BigQuery: {message}"


def _advice(message: str, reason: str, project: str) -> str | None:
    text = message.lower()
    if reason == "authError":
        return (
            "run `gcloud auth application-default login`, or give the job a service account that "
            "may use BigQuery"
        )
    if reason == "accessDenied":
        if "bigquery.jobs.create" in text:
            return f"grant roles/bigquery.jobUser on the project {project}"
        if "bigquery.readsessions" in text:
            return f"grant roles/bigquery.readSessionUser on the project {project}"
        if "storage.objects" in text or "storage.buckets" in text or "gs://" in text:
            return "grant roles/storage.objectUser on the bucket"
        return (
            "grant roles/bigquery.dataEditor on the dataset (roles/bigquery.dataViewer where it "
            "is only read)"
        )
    if reason == "notFound":
        found = re.search(r"not found: (\w+)", text)
        return _MISSING.get(
            found[1] if found else "", "correct the name, or create what is missing"
        )
    return {
        "billingNotEnabled": f"enable billing for the project {project}",
        "quotaExceeded": "wait until the quota is full again, or ask for more",
        "responseTooLarge": "select fewer columns or rows",
        "invalidQuery": "correct the query",
    }.get(reason)
