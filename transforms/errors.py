"""The errors of the project: those that cost one image, and those that stop the job.

Only an `ImageError` becomes a dead letter. Everything else fails the bundle, because a
bundle that did not fail must be correct and complete.
"""


class ImageError(Exception):
    """One image cannot be embedded; the others can.

    The message says what was wrong, with the value, in one line. It never holds the
    image's bytes.
    """


class ImageNotFound(ImageError):
    """There is no file at the URI."""


class InvalidUri(ImageError):
    """The URI names nothing that could be read: an unknown scheme, or a name with a zero byte."""


class ImageForbidden(ImageError):
    """The file is there, and this process may not read it."""


class ImageUnreachable(ImageError):
    """The web server at the URL cannot be reached, fails, or answers with something else.

    Of the many hosts in a list one is always down, so this costs one image, whereas a storage
    such as gs:// that fails stops the job.
    """


class ImageTooLarge(ImageError):
    """The file has more bytes, or the image more pixels, than the limits allow."""


class UndecodableImage(ImageError):
    """The bytes are no image that the decoder can read: empty, cut, corrupt, or another format."""


class RejectedImage(ImageError):
    """The model refuses this one image, while it accepts the others of its batch."""


class InvalidEmbedding(ImageError):
    """The model answered with NaN, Inf or a vector of the wrong width."""


class InvalidColumn(ImageError):
    """A carried column holds a value that is none of the column's type."""


class InvalidRow(ImageError):
    """A row of a manifest, or a record of a TFRecord file, cannot be read as one."""


class RefusedRow(ImageError):
    """The image is embedded, and the table does not take its row."""


class JobError(Exception):
    """The job cannot go on: a broken model or bucket, or too many failures."""


class BrokenModel(JobError):
    """The model fails on everything it is given, so no single image is to blame."""


class UnusableBucket(JobError):
    """A bucket that is not there, or that this process may not read (any more)."""


class TooManyFailures(JobError):
    """More images failed than the job allows."""


class TooManyPruned(JobError):
    """So many images are gone that the inputs are more likely broken than emptied."""


class UnreadableInput(JobError):
    """A manifest or a TFRecord file is damaged, so that nobody can tell what else it names."""


class RefusedData(JobError):
    """BigQuery refuses a load because of what the files hold; other files it may take."""


class IncompleteRun(JobError):
    """The counts do not add up: found is not skipped + embedded + failed."""


class ForeignOutput(IncompleteRun):
    """Another run has taken the output folder over."""


class RequestError(Exception):
    """What was asked for cannot be done: wrong before any work began."""


class UnusableModel(RequestError):
    """The model handle leads to nothing that turns images into vectors."""


class BatchRejected(Exception):
    """The model refused a whole batch as an invalid argument; one image may be to blame."""


class BatchTooLarge(Exception):
    """The accelerator ran out of memory on a batch of this size."""
