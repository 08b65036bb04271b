"""`embed-images retry`: embed what failed in a run, and nothing else."""

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.config import JobConfig, to_yaml
from pipeline.config_layers import Setting, resolve
from pipeline.dead_letters import (
    FailedRun,
    Failures,
    Survey,
    find_failed_run,
    survey,
    write_retry_manifest,
)
from pipeline.options import (
    beam_options,
    keep_local_engine_from_losing_data,
    refuse_what_cannot_run,
)
from pipeline.quiet import Console, print_answer
from pipeline.retry_request import INPUT_KEYS, RetryRequest
from pipeline.run import run_job
from transforms.errors import ImageError, RequestError
from transforms.folders.output_names import run_folder
from transforms.storage.file_listing import is_remote, storage_path

_LONGEST_EXAMPLE = 100

#: What neither the run nor a configuration file decides, but flags may; see the help.
_DEFAULTS = (("output.overwrite", False), ("output.prune", False), ("failures.max_ratio", 1.0))


def run_retry(request: RetryRequest, console: Console) -> int:
    """List what failed, or run the job that tries it again; return the exit status.

    Returns:
        0 done, nothing to retry, or submitted; 1 the job failed.

    Raises:
        RequestError: what was asked for cannot be done; nothing was begun.
    """
    run = find_failed_run(request.location)
    found = survey(run)
    if request.list_only:
        print_answer(format_failures(found, run.folder))
        return 0
    for (error, reason), failures in found.left_out.items():
        console.say(f"left out: {failures.count:,} {error}, {reason}; {_example(failures)}")
    errors = choose_errors(request.errors, found)
    if not errors:
        print_answer(_nothing_to_retry(request.errors, found, run.folder))
        return 0
    config = retry_config(request.settings, run)
    refuse_output(config, request.settings, run)
    options = beam_options(config.beam, request.beam_flags)
    refuse_what_cannot_run(options, wait=request.wait)
    if request.print_config:
        print_answer(to_yaml(config).rstrip("\n"))
        return 0
    if not run.complete:
        console.say(
            f"note: the run in {run.folder} did not succeed, so that the images that it embedded "
            "are not in its output; a retry does not bring them back, but running the job again"
        )
    counts = ", ".join(f"{found.by_error[error].count:,} {error}" for error in errors)
    console.say(f"retrying what failed in {run.folder}: {counts}")
    if found.left_out or found.lacks_columns or len(errors) < len(found.by_error):
        config = _with_inputs(config, [write_retry_manifest(run, errors)])
    keep_local_engine_from_losing_data()
    return run_job(config, options, console, wait=request.wait)


def format_failures(found: Survey, folder: str) -> str:
    """Return the table of what failed: the class, how many images, and an example."""
    if not (found.by_error or found.left_out):
        return f"nothing failed in {folder}"
    width = max(map(len, [*found.by_error, *(error for error, _ in found.left_out), "error"]))
    lines = [f"what failed in {folder}", "", f"{'error':<{width}}  {'images':>9}  example"]
    for error, failures in found.by_error.items():
        lines.append(f"{error:<{width}}  {failures.count:>9,}  {_example(failures)}")
    if found.left_out:
        lines += ["", "not to be retried:"]
    for (error, reason), failures in found.left_out.items():
        lines.append(f"{error:<{width}}  {failures.count:>9,}  {_example(failures)}")
        lines.append(f"{'':<{width}}  {'':>9}  ({reason})")
    return "\n".join(lines)


def choose_errors(asked: Sequence[str], found: Survey) -> tuple[str, ...]:
    """Return those classes of what can be retried that are asked for; all where none is.

    Raises:
        RequestError: a class is neither there nor any that an image can fail with.
    """
    there = {**found.by_error, **{error: each for (error, _), each in found.left_out.items()}}
    known = {kind.__name__ for kind in ImageError.__subclasses__()} | there.keys()
    for name in asked:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise RequestError(
                f"--error {name}: no image fails with that; {hint}there are {_counts(found)}"
            )
    return tuple(error for error in found.by_error if not asked or error in asked)


def retry_config(settings: Sequence[Setting], run: FailedRun) -> JobConfig:
    """Return the configuration of the job that retries all dead letters of a run.

    Args:
        settings: of the command line: of the file, of --set and of the flags.
        run: whose configuration they change. Where it or the file say `model.precision=auto`, the
            retry computes in the precision that the run did, also where this machine would settle
            it otherwise.

    Raises:
        RequestError: a key or a value is wrong.
    """
    recorded = [
        Setting(f"{section}.{key}", value, run.report_path)
        for section, keys in run.report["config"].items()
        for key, value in keys.items()
    ]
    flags = [setting for setting in settings if setting.origin.startswith("--")]
    of_file = [setting for setting in settings if not setting.origin.startswith("--")]
    settled = [_in_precision_of_run(setting, run) for setting in (*recorded, *of_file)]
    other_outputs = [
        Setting(path, None, "--output")
        for path in ("output.path", "output.table")
        if any(setting.origin == "--output" for setting in flags)
    ]
    kept = [setting for setting in recorded if setting.path in INPUT_KEYS]
    defaults = [Setting(path, value, "retry") for path, value in _DEFAULTS]
    inputs = [
        Setting("input.query", None, "retry"),
        Setting("input.uri_column", "uri", "retry"),
        Setting("input.patterns", [f"@{path}" for path in run.files], "retry"),
    ]
    return resolve([*settled, *defaults, *other_outputs, *flags, *kept, *inputs])


def _in_precision_of_run(setting: Setting, run: FailedRun) -> Setting:
    if (setting.path, setting.value) != ("model.precision", "auto"):
        return setting
    return replace(setting, value=run.report["model"]["precision"])


def refuse_output(config: JobConfig, settings: Sequence[Setting], run: FailedRun) -> None:
    """Refuse to replace the output of the run, and to write to a place that it has been moved from.

    Raises:
        RequestError: --output has to say where the retry writes.
    """
    path = config.output.path
    if path is None:
        return
    recorded = run.report["config"]["output"].get("path")
    if not config.output.incremental:
        if any(_same(path, each) for each in (recorded, run.folder) if each):
            table = config.output.table
            alone = f", or the table alone with --output bq://{table}" if table else ""
            raise RequestError(
                f"{path} is the output of the run itself, which a retry would replace; name "
                f"another folder with --output{alone}"
            )
        return
    named = any(each.path in ("output.path", "output.table") for each in settings)
    if not named and not _same(run_folder(path, os.path.basename(run.folder)), run.folder):
        raise RequestError(
            f"the run wrote to {path}, but its dead letters are in {run.folder} now; say with "
            "--output where the retry is to write"
        )


def _with_inputs(config: JobConfig, manifests: Sequence[str]) -> JobConfig:
    patterns = tuple(f"@{path}" for path in manifests)
    return config.model_copy(
        update={"input": config.input.model_copy(update={"patterns": patterns})}
    )


def _same(folder: str, other: str) -> bool:
    folder, other = (storage_path(each).rstrip("/") for each in (folder, other))
    if is_remote(folder) or is_remote(other):
        return folder == other
    return os.path.realpath(folder) == os.path.realpath(other)


def _nothing_to_retry(asked: Sequence[str], found: Survey, folder: str) -> str:
    if not (found.by_error or found.left_out):
        return f"nothing to retry: nothing failed in {folder}"
    of = f" of {', '.join(asked)}" if asked else ""
    return f"nothing to retry{of} in {folder}; there are: {_counts(found)}"


def _counts(found: Survey) -> str:
    def counts() -> Iterator[str]:
        for error, failures in found.by_error.items():
            yield f"{failures.count:,} {error}"
        for (error, _), failures in found.left_out.items():
            yield f"{failures.count:,} {error} (not to be retried)"

    return ", ".join(counts()) or "none"


def _example(failures: Failures) -> str:
    text = " ".join(f"{failures.example['uri']}: {failures.example.get('message', '')}".split())
    return text if len(text) <= _LONGEST_EXAMPLE else text[: _LONGEST_EXAMPLE - 3] + "..."
