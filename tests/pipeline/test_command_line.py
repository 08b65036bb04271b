"""The command: its flags, its help, its errors and their exit status."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.command_line import (
    DoctorRequest,
    RunRequest,
    StageModelRequest,
    parse_command_line,
)
from pipeline.config import config_keys
from pipeline.config_layers import Setting, resolve, resolve_model_settings, settings_from_file
from pipeline.yaml_text import parse_yaml
from transforms.errors import RequestError

NEEDED = ["run", "--input", "photos/", "--output", "out/"]


def run_in_subprocess(*arguments: str) -> tuple[int, str, set[str]]:
    """The exit status, what stood on stderr, and every module that was imported."""
    code = (
        "import atexit, sys; from pipeline.__main__ import main;"
        "atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr));"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    message, _, modules = done.stderr.rpartition("modules:")
    return done.returncode, message, set(modules.split())


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# What the flags do


def test_our_flags_become_settings_and_the_rest_is_left_for_beam() -> None:
    request = parse_command_line(
        [
            *("run", "--input", "a", "--runner", "DirectRunner", "--input=b c", "--streaming"),
            *("--output=o", "--parallelism", "-1", "--set", "model.batch_size=2", "--job_name=x y"),
        ]
    )
    assert request.beam_flags == (
        *("--runner", "DirectRunner", "--streaming", "--parallelism", "-1", "--job_name=x y"),
    )
    config = resolve(request.settings)
    assert config.input.patterns == ("a", "b c")
    assert config.model.batch_size == 2


def test_of_several_files_a_later_one_beats_a_former(tmp_path: Path) -> None:
    for name, text in {"a": "{handle: a, batch_size: 1}", "b": "{batch_size: 2}"}.items():
        (tmp_path / name).write_text(f"model: {text}\n")
    request = parse_command_line([*NEEDED, *(f"--config={tmp_path / name}" for name in ("a", "b"))])
    config = resolve(request.settings)
    assert (config.model.handle, config.model.batch_size) == ("a", 2)


def test_flags_beat_set_and_set_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: {handle: file, batch_size: 1}\nfailures: {max_ratio: 0.5}\n")
    request = parse_command_line(
        [
            *(*NEEDED, "--model", "flag", "--set", "model.handle=set", "--max-failure-ratio=1e-2"),
            *("--set", "model.batch_size=2", "--config", str(path), "--overwrite"),
        ]
    )
    config = resolve(request.settings)
    assert (config.model.handle, config.model.batch_size) == ("flag", 2)
    assert (config.failures.max_ratio, config.output.overwrite) == (0.01, True)


def test_a_flag_is_text_even_where_it_looks_like_yaml() -> None:
    request = parse_command_line(["run", "--input", "1", "--output", "off", "--model", "a: b"])
    config = resolve(request.settings)
    assert (config.input.patterns, config.output.path, config.model.handle) == (
        *(("1",), "off", "a: b"),
    )


@pytest.mark.parametrize(
    ("flags", "overwrite"),
    [
        ([], False),
        (["--overwrite"], True),
        (["--overwrite=true"], True),
        (["--overwrite=True"], True),
        (["--overwrite=false"], False),
        (["--overwrite", "--runner=DirectRunner"], True),
    ],
)
def test_a_switch_stands_alone_or_with_a_value(flags: list[str], overwrite: bool) -> None:
    request = parse_command_line([*NEEDED, *flags])
    assert resolve(request.settings).output.overwrite is overwrite


def test_overwrite_false_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("output: {overwrite: true}\n")
    request = parse_command_line([*NEEDED, f"--config={path}", "--overwrite=false"])
    assert not resolve(request.settings).output.overwrite


def test_verbose_wait_and_print_config_are_off_on_and_off() -> None:
    request = parse_command_line(NEEDED)
    assert (request.verbose, request.wait, request.print_config) == (False, True, False)
    request = parse_command_line([*NEEDED, "--verbose", "--no-wait", "--print-config=true"])
    assert (request.verbose, request.wait, request.print_config) == (True, False, True)


def test_print_config_prints_what_loads_back_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*NEEDED, "--set", "preprocess.scaled_decoding=auto", "--set", "beam.region=r"]
    assert main([*flags, "--print-config", "--streaming"]) == 0
    printed = capsys.readouterr().out
    assert "--streaming" in printed
    path = tmp_path / "printed.yaml"
    path.write_text(printed)
    assert resolve(settings_from_file(str(path))) == resolve(parse_command_line(flags).settings)


def test_stage_model_takes_a_handle_and_a_place() -> None:
    asked = ("--set", "model.batch_size=3")
    assert parse_command_line(["stage-model", "a", "b", *asked]) == StageModelRequest(
        handle="a",
        destination="b",
        settings=(Setting("model.batch_size", 3, "--set"),),
        serving=False,
        overwrite=False,
        verbose=False,
    )


@pytest.mark.parametrize("switches", [["--serving", "--overwrite"], ["--serving=true"]])
def test_a_switch_of_stage_model_takes_no_place_for_its_value(switches: list[str]) -> None:
    for arguments in (["m", "d", *switches], [*switches, "m", "d"], ["m", *switches, "d"]):
        request = parse_command_line(["stage-model", *arguments])
        assert isinstance(request, StageModelRequest)
        assert (request.handle, request.destination, request.serving) == ("m", "d", True)
        assert request.overwrite is ("--overwrite" in switches)


def test_doctor_takes_the_flags_of_run(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: {batch_size: 4}\n")
    flags = ["--input", "a", "--output=b", "--model", "m", f"--config={path}", "--json"]
    request = parse_command_line(["doctor", *flags])
    assert isinstance(request, DoctorRequest)
    config = resolve(request.settings)
    assert (config.model.handle, config.model.batch_size) == ("m", 4)
    assert (request.json_output, request.verbose) == (True, False)
    assert parse_command_line(["doctor"]) == DoctorRequest((), False, False)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing: embed-images run --input ... --output ..."),
        (["runn"], "unknown command 'runn'; did you mean run?"),
        (
            ["zzz"],
            "unknown command 'zzz'; use one of run, retry, stage-model, doctor, plan, search",
        ),
        (["stagemodel"], "unknown command 'stagemodel'; did you mean stage-model?"),
        (["stage_model"], "unknown command 'stage_model'; did you mean stage-model?"),
        (["stage"], "unknown command 'stage'; did you mean stage-model?"),
        (["docter"], "unknown command 'docter'; did you mean doctor?"),
        (["--input", "x"], "--input comes before the command; write embed-images run --input ..."),
        (["run", "--imput", "x"], "unknown flag --imput; did you mean --input?"),
        (["run", "--ouptut=x"], "unknown flag --ouptut; did you mean --output?"),
        (["run", "--over"], "unknown flag --over; did you mean --overwrite?"),
        (
            ["run", "--max_failure_ratio=1"],
            "unknown flag --max_failure_ratio; did you mean --max-failure-ratio?",
        ),
        (["run", "-input=x"], "unknown flag -input; did you mean --input?"),
        (["run", "-o", "x"], "unknown flag -o; flags begin with two dashes"),
        (["run", "--input"], "--input needs a value: --input=VALUE"),
        (["run", "--model", "--overwrite"], "--model needs a value: --model=VALUE"),
        (
            [*NEEDED, "--verbose=maybe"],
            "--verbose is 'maybe'; use --verbose, --verbose=true or --verbose=false",
        ),
        (
            [*NEEDED, "--max-failure-ratio", "2"],
            "failures.max_ratio: 2 is not allowed; use a number from 0 to 1 (--max-failure-ratio)",
        ),
        (
            [*NEEDED, "--max-failure-ratio=few"],
            "failures.max_ratio: 'few' is not allowed; use a number from 0 to 1 "
            "(--max-failure-ratio)",
        ),
        ([*NEEDED, "--max-failure-ratio=["], "--max-failure-ratio is '['; use a number"),
        (
            ["run", "--input", "x"],
            "output.path is missing; give it with --output or in a configuration file",
        ),
        ([*NEEDED, "--config", "nowhere.yaml"], "there is no configuration file nowhere.yaml"),
        (
            [*NEEDED, "--set", "model.batchsize=3"],
            "model.batchsize: unknown key; did you mean model.batch_size? (--set)",
        ),
        ([*NEEDED, "--", "--x"], "'--' is not needed; write flags of Beam like ours"),
        (["stage-model"], "HANDLE, DEST is missing; see embed-images stage-model --help"),
        (["stage-model", "m"], "DEST is missing; see embed-images stage-model --help"),
        (
            ["stage-model", "m", "d", "e"],
            "unexpected argument 'e'; see embed-images stage-model --help",
        ),
        (
            ["stage-model", "--servnig", "m", "d"],
            "unknown flag --servnig; did you mean --serving?",
        ),
        (
            ["stage-model", "m", "d", "--runner=x"],
            "unknown flag --runner; embed-images stage-model --help lists them all",
        ),
        (
            ["stage-model", "m", "d", "--set", "output.shards=1"],
            "output.shards: stage-model takes keys of model and preprocess only (--set)",
        ),
        (
            ["stage-model", "m", "d", "--set", "model.handle=x"],
            "model.handle: name the model as HANDLE (--set)",
        ),
        (
            ["stage-model", "m", "d", "--set", "model.batch_size=0"],
            "model.batch_size: 0 is not allowed; use a whole number from 1 to 1024 (--set)",
        ),
        (["doctor", "x"], "unexpected argument 'x'; see embed-images doctor --help"),
        (["doctor", "--modle=x"], "unknown flag --modle; did you mean --model?"),
        (["doctor", "--model"], "--model needs a value: --model=VALUE"),
    ],
)
def test_a_wrong_request_gets_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert only_line(captured.err) == f"embed-images: error: {message}"
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [["photos/"], ["--input", "a.jpg", "b.jpg"], ["--job_name=x", "y"], ["-1"]]
)
def test_a_stray_argument_is_refused(arguments: list[str]) -> None:
    with pytest.raises(RequestError, match=r"unexpected argument .* needs its own --input"):
        parse_command_line(["run", *arguments])


# Help


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["-h"], ["--version"], ["plan", "--help"]),
        *(["run", "--help"], ["stage-model", "--help"], ["doctor", "-h"], ["retry", "--help"]),
    ],
)
def test_help_and_version_end_with_status_0(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "embed-images" in capsys.readouterr().out


def test_the_top_help_lists_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for command in ("run", "retry", "stage-model", "doctor", "plan"):
        (line,) = [line for line in lines if line.startswith(f"  {command}  ")]
        assert len(line.split()) > 2


def test_help_has_examples_every_key_and_says_which_flags_are_beams(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "Every other flag is Beam's" in text
    for key in config_keys():
        assert f"  {key.path}: {key.allowed}" in text


@pytest.mark.parametrize(
    ("command", "count"), [("run", 6), ("retry", 3), ("stage-model", 3), ("doctor", 4), ("plan", 4)]
)
def test_the_examples_of_the_help_are_right(
    command: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("output: {path: out}\n")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    examples = [line for line in lines if line.startswith(f"embed-images {command}")]
    assert len(examples) == count
    for example in examples:
        arguments, *_ = example.split(" > ")
        request = parse_command_line(shlex.split(arguments)[1:])
        if isinstance(request, RunRequest):
            assert resolve(request.settings)
        elif isinstance(request, StageModelRequest):
            assert resolve_model_settings(request.settings)


# Speed: what is not imported cannot cost time.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["run", "--help"], 0),
        (["run", "--imput=x"], 2),
        (["--help"], 0),
        (["stage-model", "--help"], 0),
        (["stage-model", "m"], 2),
        (["doctor", "--help"], 0),
        (["doctor", "--jsno"], 2),
        (["retry", "--help"], 0),
        (["retry", "--from=x", "--eror=y"], 2),
        (["plan", "--help"], 0),
        (["plan", "--sampel=5"], 2),
        (["plan", "--print-profile"], 0),
        ([*NEEDED, "--set", "model.batch_size=0"], 2),
        ([*NEEDED, "--print-config", "--runner=DirectRunner"], 0),
    ],
)
def test_help_and_our_own_errors_import_neither_beam_nor_tensorflow(
    arguments: list[str], status: int
) -> None:
    exit_status, _, modules = run_in_subprocess(*arguments)
    assert exit_status == status
    assert "pydantic" in modules
    assert not {"apache_beam", "tensorflow", "PIL", "pyarrow"} & modules


def test_errors_in_flags_of_beam_import_no_tensorflow() -> None:
    status, message, modules = run_in_subprocess(*NEEDED, "--runner=DataflowRunner")
    assert status == 2
    assert only_line(message) == (
        "embed-images: error: --runner=DataflowRunner needs --project, --region and --temp_location"
    )
    assert "apache_beam" in modules
    assert "tensorflow" not in modules


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *NEEDED, "--print-config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    printed = parse_yaml(done.stdout)
    assert isinstance(printed, dict)
    assert printed["input"]["patterns"] == ["photos/"]


def test_a_switch_takes_no_word_that_is_not_joined_to_it() -> None:
    request = parse_command_line(["run", "--overwrite", "--job_name=a b", "--verbose"])
    assert request.beam_flags == ("--job_name=a b",)
    assert request.verbose


def test_an_argument_that_is_no_utf8_is_refused_in_one_sentence() -> None:
    with pytest.raises(RequestError, match="no valid UTF-8"):
        parse_command_line(["run", "--input=\udcff.jpg"])
