"""The command `embed-images`, also `python -m pipeline`.

Beam and TensorFlow are imported only once our own flags and the configuration are right,
so that help and errors come at once.
"""

import os
import sys
from collections.abc import Callable, Sequence

from pipeline.command_line import (
    DoctorRequest,
    RunRequest,
    StageModelRequest,
    parse_command_line,
)
from pipeline.config import to_yaml
from pipeline.config_layers import resolve, resolve_model_settings
from pipeline.flags import PROGRAM
from pipeline.plan_profile import default_profile_text
from pipeline.plan_request import PlanRequest
from pipeline.quiet import Console, print_answer, quiet_libraries
from pipeline.retry_request import RetryRequest
from pipeline.search_request import SearchRequest
from transforms.errors import RequestError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; `argv` is without the program's name, by default the process's own.

    Returns:
        The exit status: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted.
    """
    _open_missing_standard_error()
    try:
        request = parse_command_line(sys.argv[1:] if argv is None else argv)
        if isinstance(request, RunRequest):
            return _run(request)
        if isinstance(request, RetryRequest):
            return _retry(request)
        if isinstance(request, StageModelRequest):
            return _stage_model(request)
        if isinstance(request, SearchRequest):
            return _search(request)
        if isinstance(request, PlanRequest):
            return _plan(request)
        return _doctor(request)
    except RequestError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; the same command may simply be run again", file=sys.stderr)
        if argv is None:
            # Beam's threads may be left waiting for each other, and would keep the process alive.
            sys.stderr.flush()
            os._exit(130)
        return 130


def _open_missing_standard_error() -> None:
    """Let a process that was started with a closed standard error run all the same."""
    try:
        os.fstat(2)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def _run(request: RunRequest) -> int:
    config = resolve(request.settings)
    if request.print_config:
        if request.beam_flags:
            print_answer(f"# Flags of Beam on the command line: {' '.join(request.beam_flags)}")
        print_answer(to_yaml(config).rstrip("\n"))
        return 0

    def work(console: Console) -> int:
        # Slow to import, and noisy: only now, and in here.
        from pipeline.options import (
            beam_options,
            keep_local_engine_from_losing_data,
            refuse_what_cannot_run,
        )
        from pipeline.run import run_job

        keep_local_engine_from_losing_data()
        options = beam_options(config.beam, request.beam_flags)
        refuse_what_cannot_run(options, wait=request.wait)
        return run_job(config, options, console, wait=request.wait)

    return _quietly(work, request.verbose)


def _retry(request: RetryRequest) -> int:
    def work(console: Console) -> int:
        from pipeline.retry import run_retry

        return run_retry(request, console)

    return _quietly(work, request.verbose)


def _stage_model(request: StageModelRequest) -> int:
    settings = resolve_model_settings(request.settings)

    def work(console: Console) -> int:
        from pipeline.stage_model import stage_model

        return stage_model(request, settings, console)

    return _quietly(work, request.verbose)


def _doctor(request: DoctorRequest) -> int:
    def work(console: Console) -> int:
        from pipeline.doctor import run_doctor

        return run_doctor(request, console)

    return _quietly(work, request.verbose)


def _search(request: SearchRequest) -> int:
    def work(console: Console) -> int:
        from pipeline.search import run_search

        return run_search(request, console)

    return _quietly(work, request.verbose)


def _plan(request: PlanRequest) -> int:
    if request.print_profile:
        print_answer(default_profile_text().rstrip("\n"))
        return 0

    def work(console: Console) -> int:
        from pipeline.plan import run_plan

        return run_plan(request, console)

    return _quietly(work, request.verbose)


def _quietly(work: Callable[[Console], int], verbose: bool) -> int:
    """Do the work, and keep what the libraries logged where it failed."""
    with quiet_libraries(verbose) as console:
        status = 1
        try:
            status = work(console)
        except RequestError:
            status = 2
            raise
        except KeyboardInterrupt:
            status = 130
            raise
        finally:
            _close_log(console, keep=status == 1)
    return status


def _close_log(console: Console, keep: bool) -> None:
    if console.log_path is None:
        return
    if keep:
        console.say(f"what Beam and TensorFlow had to say is in {console.log_path}")
    else:
        os.remove(console.log_path)


if __name__ == "__main__":
    sys.exit(main())
