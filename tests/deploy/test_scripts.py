"""deploy/*.sh: what they would do, and with gcloud at hand what reaches Google's services."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from components import require_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = ("build", "run", "schedule", "grants")

TEMPLATE = "gs://b/t/embed.json"
KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
WORKER = "worker@p.iam.gserviceaccount.com"
RUN = (f"--template={TEMPLATE}", "--region=europe-west4")
SCHEDULE = (
    *RUN,
    "--project=p",
    "--schedule=15 3 * * *",
    "--scheduler-account=scheduler@p.iam.gserviceaccount.com",
    f"--worker-account={WORKER}",
    "--temp-location=gs://b/tmp",
)
#: With what is special to shells, YAML, JSON and gcloud.
PARAMETERS = {
    "input": "gs://b/a\\,b/*.jpg,gs://b/$HOME",
    "input_query": "SELECT \"it's\", 'a=b', 1 # 2\\n FROM `p.d.t` {x: [y]}",
    "output": "gs://b/out",
    "incremental": "true",
    "model_signature": "null",
}
PAIRS = [f"{name}={value}" for name, value in PARAMETERS.items()]


def script(name, *arguments, **environment):
    return subprocess.run(
        [DEPLOY / f"{name}.sh", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def commands(output):
    """The commands that a script printed, each as its words."""
    return [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("+ ")]


def test_shellcheck_finds_nothing():
    shellcheck = require_program("shellcheck", "pip install 'embed-images[dev]'")
    linted = subprocess.run(
        [shellcheck, "--external-sources", *DEPLOY.glob("*.sh")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_example_of_the_help_runs_word_for_word(name):
    shown = script(name, "--help")
    assert shown.returncode == 0
    example = shown.stdout.split("example:\n")[1]
    assert "--dry-run" in example
    # Nothing but what bash and the core utilities bring is needed for that.
    tried = subprocess.run(
        ["bash", "-c", example],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert (tried.returncode, tried.stderr) == (0, "")
    assert commands(tried.stdout)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_is_in_the_help(name):
    shown = script(name, "--help").stdout
    for option in re.findall(r"^ +(--[a-z-]+)=?\*?\)", (DEPLOY / f"{name}.sh").read_text(), re.M):
        assert f"  {option}" in shown


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_without_arguments_says_what_is_missing(name):
    ended = script(name)
    assert ended.returncode == 2
    assert "is missing; see" in ended.stderr
    assert commands(ended.stdout) == []


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("build", ("--image=i", "--template=t.json"), "no object on gs://"),
        ("build", ("--image=i", f"--template={TEMPLATE}", "--user=me"), "use embed or root"),
        ("build", ("--imgae=i",), "unknown argument --imgae=i"),
        ("run", RUN, "no parameter NAME=VALUE"),
        ("run", (*RUN, "input=a", "input=b"), "input is there twice; separate several values"),
        ("run", (*RUN, "inptu=a"), "there is no parameter inptu"),
        ("run", (*RUN, "embed-images=a"), "there is no parameter embed-images"),
        ("run", (*RUN, "batch_size=1"), "did you mean model_batch_size?"),
        ("run", (*RUN, "model.batch_size=1"), "did you mean model_batch_size?"),
        ("run", (*RUN, "max-failure-ratio=1"), "did you mean max_failure_ratio?"),
        ("run", (*RUN, "--job=", "input=a"), "--job is missing"),
        ("run", (*RUN, "--job=Nightly", "input=a"), "--job is Nightly"),
        ("run", (*RUN, "--dry-run=true", "input=a"), "--dry-run takes no value"),
        ("run", (*RUN[1:], "--template=t.json", "input=a"), "no object on gs://"),
        ("schedule", (*SCHEDULE, "prune=true", "prune=true"), "prune is there twice"),
        ("schedule", (*SCHEDULE, "inptu=a"), "there is no parameter inptu"),
        ("schedule", (*SCHEDULE, "--job=", "input=a"), "--job is missing"),
        ("schedule", (*SCHEDULE, "--template=t.json", "input=a"), "no object on gs://"),
        ("run", (*RUN, "photos"), "photos is neither a flag nor NAME=VALUE"),
        ("run", (*RUN, "input=a\nb"), "input holds a line break"),
        ("schedule", SCHEDULE, "no parameter NAME=VALUE"),
        ("schedule", (*SCHEDULE, "input=a\tb"), "input holds a line break or a tab"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_done(name, arguments, problem):
    ended = script(name, "--dry-run", *arguments)
    assert ended.returncode == 2
    assert problem in ended.stderr
    assert commands(ended.stdout) == []


@pytest.mark.parametrize("builder", [(), ("--cloud-build",)])
def test_the_image_is_built_pushed_and_named_by_the_template(builder):
    ended = script(
        "build",
        "--dry-run",
        "--image=registry/i:1",
        f"--template={TEMPLATE}",
        "--model=keras:x?weights=a,b",
        *builder,
    )
    *building, template = commands(ended.stdout)
    words = " ".join(word for command in building for word in command)
    assert "IMAGE=registry/i:1" in words
    assert "MODEL=keras:x?weights=a,b" in words
    assert "IMAGE_USER=embed" in words
    assert ("push" in words) != bool(builder)
    assert template[:5] == ["gcloud", "dataflow", "flex-template", "build", TEMPLATE]
    assert {"--image=registry/i:1", "--metadata-file=deploy/metadata.json"} <= set(template)


def test_the_substitutions_of_cloud_build_are_those_of_the_script():
    ended = script("build", "--dry-run", "--cloud-build", "--image=i", f"--template={TEMPLATE}")
    given = set(re.findall(r"[|^](_[A-Z_]+)=", shlex.join(commands(ended.stdout)[0])))
    used = set(re.findall(r"\$\{(_[A-Z_]+)\}", (DEPLOY / "cloudbuild.yaml").read_text()))
    assert given == used == {"_IMAGE", "_IMAGE_USER", "_MODEL"}


def test_a_schedule_holds_the_whole_launch():
    ended = script(
        *("schedule", "--dry-run", *SCHEDULE, "--subnetwork=regions/r/subnetworks/s"),
        *("--network=n", "--launcher-machine-type=n1-standard-4", f"--kms-key={KEY}", *PAIRS),
    )
    body = json.loads(ended.stdout.splitlines()[0])
    assert body == {
        "launchParameter": {
            "jobName": "embed-images",
            "containerSpecGcsPath": TEMPLATE,
            "parameters": PARAMETERS,
            "environment": {
                "serviceAccountEmail": WORKER,
                "tempLocation": "gs://b/tmp",
                "subnetwork": "regions/r/subnetworks/s",
                "ipConfiguration": "WORKER_IP_PRIVATE",
                "network": "n",
                "launcherMachineType": "n1-standard-4",
                "kmsKeyName": KEY,
            },
        }
    }
    (command,) = commands(ended.stdout)
    assert "--schedule=15 3 * * *" in command


GRANTS = (
    *("grants", "--project=p", "--region=r", "--repository=i"),
    *("--input-bucket=in", "--work-bucket=work"),
)

#: What a command of gcloud grants a role on, and how docs/deploy.md calls it.
PLACES = {
    "projects add-iam-policy-binding p ": "the project",
    "storage buckets add-iam-policy-binding gs://in ": "the bucket with the images",
    "storage buckets add-iam-policy-binding gs://work ": "the work bucket",
    "artifacts repositories add-iam-policy-binding i ": "the repository",
    "iam service-accounts add-iam-policy-binding embed-images-worker@p.": "the account of the "
    "workers",
}


def granted(*more):
    """Each grant that the script prints: who, which role, on what."""
    for words in commands(script(*GRANTS, "--dry-run", *more).stdout):
        command = " ".join(words[1:])
        if words[0] == "bq":
            role, place, who = re.fullmatch(
                r"GRANT `(\S+)` ON SCHEMA `(\S+)` TO \"serviceAccount:(\S+)@p\.\S+\"", words[-1]
            ).groups()
            assert place == "p.d"
            yield who, role, "the dataset"
        elif "add-iam-policy-binding" in command:
            (place,) = (name for start, name in PLACES.items() if command.startswith(start))
            yield (
                re.search(r"--member=serviceAccount:(\S+)@p\.", command)[1],
                re.search(r"--role=(\S+)", command)[1],
                place,
            )


def test_the_grants_are_those_of_the_documentation():
    documented = re.findall(
        r"^\| `(embed-images-\w+)` \| `(roles/[\w.]+)` \| ([^|]+?) \|",
        (ROOT / "docs" / "deploy.md").read_text(),
        re.M,
    )
    with_dataset, without = list(granted("--dataset=d")), list(granted())
    condition = ", with `--dataset`"
    assert sorted(with_dataset) == sorted(
        (who, role, place.removesuffix(condition)) for who, role, place in documented
    )
    assert sorted(without) == sorted(
        grant for grant in documented if condition not in grant[2] and grant[2] != "the dataset"
    )
    # Nobody owns or edits a whole project, and no bucket's rights are managed by a job.
    assert not [
        role
        for _, role, _ in with_dataset
        if re.fullmatch(r"roles/(owner|editor|viewer|\w+\.admin|storage\.objectAdmin)", role)
    ]


def test_a_bucket_may_be_named_with_its_scheme():
    plain = script(*GRANTS, "--dry-run").stdout
    with_schemes = [
        re.sub("bucket=(.+)", r"bucket=gs://\1/", argument) for argument in (*GRANTS, "--dry-run")
    ]
    assert script(*with_schemes).stdout == plain


def test_grants_may_be_run_again(tmp_path):
    """A gcloud that knows one of the accounts, and ends with 1 where it is to be created again."""
    program = tmp_path / "gcloud"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*"describe embed-images-worker@"*) exit 0 ;;\n'
        '*describe*|*"create embed-images-worker "*) exit 1 ;;\n'
        "esac\n"
    )
    program.chmod(0o755)
    ended = script(*GRANTS, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ended.returncode == 0, ended.stderr
    created = [command[4] for command in commands(ended.stdout) if "create" in command]
    assert created == ["embed-images-scheduler"]


# With the real gcloud, which CI need not have: what it sends, to a server on this machine.


class Google(ThreadingHTTPServer):
    """Takes every request for an answer's worth of JSON, and remembers it."""

    daemon_threads = True

    def __init__(self):
        self.received = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path.partition("?")[0], json.loads(body)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"job": {"id": "1"}}' if "flexTemplates" in self.path else b"{}")

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def google():
    server = Google()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def gcloud(tmp_path):
    """The environment of a gcloud that knows nobody's account."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed; https://cloud.google.com/sdk/docs/install")
    return {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_PROJECT": "p",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
    }


def test_gcloud_takes_the_metadata_as_they_are(gcloud):
    built = subprocess.run(
        [
            *("gcloud", "dataflow", "flex-template", "build", TEMPLATE, "--image=registry/i:1"),
            *("--sdk-language=PYTHON", "--metadata-file=deploy/metadata.json", "--print-only"),
            "--format=value(.)",
        ],
        cwd=ROOT,
        env=os.environ | gcloud,
        capture_output=True,
        text=True,
        check=True,
    )
    spec = json.loads(built.stdout)
    # gcloud leaves out what it does not know.
    assert spec["metadata"] == json.loads((DEPLOY / "metadata.json").read_text())
    assert spec["sdkInfo"] == {"language": "PYTHON"}


def test_gcloud_launches_with_the_parameters_as_they_are(gcloud):
    with google() as server:
        ended = script(
            *("run", *RUN, "--job=nightly", f"--service-account-email={WORKER}"),
            *("--disable-public-ips", "--temp-location=gs://b/tmp", *PAIRS),
            CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW=f"http://127.0.0.1:{server.server_port}/",
            **gcloud,
        )
    assert ended.returncode == 0, ended.stderr
    ((path, body),) = server.received
    assert path == "/v1b3/projects/p/locations/europe-west4/flexTemplates:launch"
    launched = body["launchParameter"]
    assert launched["parameters"] == PARAMETERS
    assert launched["jobName"] == "nightly"
    assert launched["containerSpecGcsPath"] == TEMPLATE
    assert launched["environment"]["serviceAccountEmail"] == WORKER
    assert launched["environment"]["ipConfiguration"] == "WORKER_IP_PRIVATE"


def test_gcloud_schedules_the_launch(gcloud):
    with google() as server:
        host = f"http://127.0.0.1:{server.server_port}/"
        ended = script(
            *("schedule", *SCHEDULE, *PAIRS),
            CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDSCHEDULER=host,
            **gcloud,
        )
    assert ended.returncode == 0, ended.stderr
    ((path, job),) = server.received
    assert path == "/v1/projects/p/locations/europe-west4/jobs"
    assert job["schedule"] == "15 3 * * *"
    target = job["httpTarget"]
    assert target["uri"] == (
        "https://dataflow.googleapis.com/v1b3/projects/p/locations/europe-west4"
        "/flexTemplates:launch"
    )
    assert target["oauthToken"]["serviceAccountEmail"].startswith("scheduler@")
