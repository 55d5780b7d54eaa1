"""The `kinora` command: what it prints, its exit codes, and one sentence for every mistake."""

import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import read_settings_file
from components.models.weights import new_folder
from components.registry import gates, models
from components.stages import STAGES
from components.store import tables
from components.store.project import Project
from flows import __main__ as entry
from tests.flows.command import REPOSITORY, environment

HEAVY = {"torch", "ray", "prefect", "mlflow"}
Say = Callable[..., tuple[int, str, str]]


def test_help_lists_every_verb(say: Say) -> None:
    for arguments in ((), ("--help",)):
        code, out, _ = say(*arguments)
        assert code == 0
        assert all(verb in out for verb in entry.VERBS)


@pytest.mark.parametrize("verb", entry.VERBS)
def test_every_verb_has_help(say: Say, verb: str) -> None:
    code, out, _ = say(verb, "--help")
    assert code == 0
    assert f"Usage: kinora {verb}" in out


def test_the_help_of_a_run_names_the_profiles_that_there_are(say: Say) -> None:
    _, out, _ = say("run", "--help")
    listed = " ".join(out.split()).partition("A profile of the settings file: ")[2].partition(".")[0]
    assert sorted(listed.split(", ")) == sorted(read_settings_file(REPOSITORY / "pipelines.yaml")["profiles"])


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("runn", "error: `runn` is not a verb\nhint: did you mean `kinora run`?\n"),
        ("xyz", "error: `xyz` is not a verb\nhint: the verbs are run, "),
        ("run train_vea", "error: `train_vea` is not a flow\nhint: did you mean `train_vae`?\n"),
        ("run nonsense", "error: `nonsense` is not a flow\nhint: the flows are footage_to_model, "),
        ("run --profile latop", "error: `latop` is not a profile; did you mean `laptop`?\n"),
        ("plan --set dit.stps=3", "error: `dit.stps` is not a setting; did you mean `dit.steps`?\n"),
        ("plan train_vae", "error: `train_vae` has no plan of its own\nhint: `kinora plan`, or `kinora plan train_dit`\n"),
        ("plan --memory 8", "error: `--memory` is of a training\nhint: `kinora plan train_dit --memory GIB`\n"),
        ("plan --set dit.steps", "error: `--set dit.steps` is not `key=value`\nhint: "),
        ("run --source nowhere", "error: the source `nowhere` is not there\nhint: "),
        ("run --source empty", "error: `empty` holds no video and no image\nhint: "),
        ("run --source empty --manifest no.csv", "error: the manifest `no.csv` is not there\nhint: "),
        ("plan --config no.yaml", "error: the settings file `no.yaml` is not there\nhint: "),
        ("plan --project ...", "error: `...` gives no project name\nhint: "),
        ("show funnel", "error: project `demo` has no clips in `runs`\nhint: `kinora run` makes one\n"),
        ("show clips --project none", "error: project `none` has no clips in `runs`\nhint: "),
        ("plan --sorce here", "error: No such option"),
        ("show setings", "error: No such command"),
    ],
)
def test_bad_input_answers_in_one_sentence_with_exit_code_2(say: Say, tmp_path: Path, command: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = say(*command.split())
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "runs").exists()  # a mistake leaves nothing behind


def test_settings_are_printed_resolved(say: Say) -> None:
    code, out, _ = say("show", "settings", "--profile", "test", "--set", "dit.steps=7")
    assert code == 0
    assert yaml.safe_load(out)["dit"]["steps"] == 7
    assert json.loads(say("show", "settings", "--json")[1])["dit"]["steps"] != 7


def test_the_plan_of_a_new_project_runs_every_stage(say: Say, tmp_path: Path) -> None:
    code, out, _ = say("plan", "--profile", "test")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [[stage, "run"] for stage in STAGES]
    assert [stage["action"] for stage in json.loads(say("plan", "--json")[1])] == ["run"] * len(STAGES)
    assert not (tmp_path / "runs").exists()


def test_the_plan_of_a_training_says_what_it_takes_and_what_would_make_it_fit(say: Say) -> None:
    code, out, err = say("plan", "train_dit", "--profile", "test", "--seconds", "0", "--memory", "0.5")
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["16x3x4x4", "8", "96"]
    assert "10 steps of 92.8 tokens by 1 worker, 928 in all" in err, "some of them see images"
    assert "1 of 1 shapes do not fit in 512 MiB" in err
    code, out, _ = say("plan", "train_dit", "--profile", "test", "--seconds", "0", "--memory", "80", "--json")
    assert [bucket["fits"] for bucket in json.loads(out)["buckets"]] == [True]
    on_gpus = ("--set", "cluster.use_gpu=true", "--set", "cluster.num_workers=2")
    code, _, err = say("plan", "train_dit", "--profile", "test", "--seconds", "0", "--memory", "80", *on_gpus)
    assert (
        "in its machine's memory a worker has 996 KiB of the model while it starts, the first one has 3.9 MiB of weights, their average "
        "and the optimiser's states at each checkpoint and 1.9 MiB of two copies of the average that samples are drawn from; 5.8 MiB where "
        "one machine has all of them"
    ) in " ".join(err.split())


def test_the_plan_of_a_finished_project_says_that_it_is_up_to_date(say: Say, finished: Path) -> None:
    code, out, err = say("plan", "--profile", "test", "--project", "films")
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"skip"}
    assert err == "project `films` is up to date\n"


def test_a_run_of_a_finished_project_says_so_and_starts_nothing(finished: Path) -> None:
    """Asked of a real process: neither Prefect nor Ray nor torch nor MLflow is imported, and no file changes."""
    script = f"import sys; from flows.__main__ import _exit_code; c = _exit_code(sys.argv[1:]); print({HEAVY!r} & set(sys.modules), c)"
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--profile", "test", "--project", "films"],
        cwd=finished,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set() 0"
    assert "project `films` is up to date; nothing was started" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_status_of_a_finished_project_lists_its_stages_and_one_that_never_ran_is_said_to_have_not(say: Say, finished: Path) -> None:
    code, out, err = say("status", "--project", "films", "-w")
    assert (code, err) == (0, "no run of project `films` is in progress\n")
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + len(STAGES)]] == list(STAGES)
    assert "done before" in out
    assert json.loads(say("status", "--project", "films", "--json")[1])["in_progress"] is False
    code, out, err = say("status", "--project", "none")
    assert (code, out) == (2, "")
    assert err.startswith("error: project `none` has not run yet in `runs`\nhint: ")


def test_a_run_is_followed_in_plain_lines_until_it_is_killed_and_ctrl_c_leaves_it_alone(finished: Path) -> None:
    """The run is a process that says of itself what a training says; the followers are the real command."""
    script = (
        "import sys, time; from pathlib import Path; from components.operations.running import Heartbeat, announced_run, read, stage_file\n"
        "from components.store.project import Project; project = Project(Path('runs'), 'films'); said = stage_file(project, 'train_vae')\n"
        "with announced_run(project, 'train_vae', ['train_vae']):\n"
        "    Heartbeat(said, {'key': 'k'}, dict).say(done=4, total=10, note='loss 0.5')\n"
        "    while 'done' not in read(said): time.sleep(0.05)  # the next beat writes it\n"
        "    print('up', flush=True); sys.stdin.read()"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": finished, "env": environment()}
    command = [sys.executable, "-m", "flows", "status", "--project", "films", "-w"]
    run = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, **pipes)
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    followers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        for follower in followers:
            assert follower.stdout is not None
            assert follower.stdout.readline().startswith("train_vae running")
        followers[0].send_signal(signal.SIGINT)
        said = followers[0].communicate(timeout=60)[0]
        assert (followers[0].returncode, "Traceback" in said) == (0, False)
        assert run.poll() is None
        run.kill()
        said = followers[1].communicate(timeout=60)[0]
        assert followers[1].returncode == 0
        assert "train_vae killed 4/10 40 %" in said
        assert said.splitlines()[-1].endswith("the same command resumes it")
    finally:
        for process in (run, *followers):
            process.kill()
            process.wait()


def test_clips_are_shown_and_filtered(say: Say, finished: Path) -> None:
    code, out, err = say("show", "clips", "--project", "films", "--limit", "3")
    assert (code, len(out.splitlines())) == (0, 4)
    assert err == "3 of 8 clips; `--limit 0` prints all\n"
    shown = json.loads(say("show", "clips", "--project", "films", "--where", "clip_id = 'c002'", "--json")[1])
    assert [(row["clip_id"], row["caption"]) for row in shown] == [("c002", "a red ball")]
    code, _, err = say("show", "clips", "--project", "films", "--where", "colour = 'red'")
    assert code == 2
    assert err.startswith("error: `--where colour = 'red'` is not a filter of clips")


def test_the_funnel_counts_files_and_clips(say: Say, finished: Path) -> None:
    project = Project(finished / "runs", "films")
    tables.videos(project).append(
        [{"video_id": "a", "status": "accepted"}, {"video_id": "b", "status": "rejected", "reason": "its header is cut"}]
    )
    tables.clips(project).update([{"clip_id": "c001", "keep": False, "drop_reason": "dark: luma 1.0"}])
    why = "train_vae, step 7: its gradient is not finite"
    tables.clips(project).update([{"clip_id": "c003", "quarantine": why}])
    code, out, _ = say("show", "funnel", "--project", "films")
    assert code == 0
    assert "1 its header is cut" in out
    steps = {step["what"]: (step["kept"], step["dropped"]) for step in json.loads(say("show", "funnel", "--project", "films", "--json")[1])}
    files = {"files found": (2, 0), "files accepted": (1, 1)}
    assert steps == {**files, "clips cut": (8, 0), "not dark": (7, 1), "not in quarantine": (6, 1), "clips kept": (6, 0)}
    shown = json.loads(say("show", "clips", "--project", "films", "--where", "quarantine IS NOT NULL", "--json")[1])
    assert [(row["clip_id"], row["quarantine"]) for row in shown] == [("c003", why)]


def test_a_project_keeps_its_source_and_the_world_and_footage_do_not_mix(say: Say, tmp_path: Path) -> None:
    footage = tmp_path / "My Films"
    footage.mkdir()
    (footage / "a.mp4").write_bytes(b"film")
    Project(tmp_path / "runs", "my-films").write_record("source", {"folder": str(footage), "manifest": None})
    assert json.loads(say("plan", "--project", "my-films", "--json")[1])[0]["rows"] == 1
    assert json.loads(say("plan", "--source", str(footage), "--json")[1])[0]["rows"] == 1
    Project(tmp_path / "runs", "demo").write_record("source", {"folder": None, "manifest": None})
    code, _, err = say("plan", "--project", "demo", "--source", str(footage))
    assert code == 2
    assert err.startswith("error: project `demo` holds the synthetic world\nhint: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["", "-o", "a.mp4"], "error: the prompt is empty\nhint: say what should be seen"),
        (["  ", "-o", "a.mp4"], "error: the prompt is empty\nhint: "),
        (["a red ball", "-o", "a.gif"], "error: `a.gif` is not an MP4 file\nhint: `-o a.mp4`\n"),
        (["a red ball", "-o", "no/a.mp4"], "error: the folder `no` of `-o` is not there\nhint: `mkdir -p no`\n"),
        (["a red ball", "-o", "a film's/a.mp4"], "error: the folder `a film's` of `-o` is not there\nhint: `mkdir -p 'a film'\"'\"'s'`\n"),
        (["caf\udce9", "-o", "a.mp4"], "error: the prompt `caf?` is not UTF-8\nhint: type it again"),
        (["a cup", "-o", "a.mp4", "--negative-prompt", "caf\udce9"], "error: the negative prompt `caf?` is not UTF-8\nhint: type it again"),
        (["a red ball"], "error: Missing option '-o'"),
        (["a red ball", "-o", "a.mp4", "--seed", "-1"], "error: Invalid value for '--seed'"),
        (["a red ball", "-o", "a.mp4", "--steps", "100000000000"], "error: Invalid value for '--steps'"),
        (["a red ball", "-o", "sheeted.mp4"], "error: the contact sheet `sheeted.sheet.png` is a folder\nhint: `-o` another file\n"),
        (["a red ball", "-o", f"{'a' * 252}.mp4"], f"error: the name of `{'a' * 252}.mp4` is too long\nhint: `-o` with a shorter one\n"),
        (["a red ball", "-o", f"{'a' * 251}.mp4"], f"error: the name of the contact sheet `{'a' * 251}.sheet.png` is too long\nhint: "),
        (["a red ball", "-o", f"{'a' * 245}.mp4"], "error: `./nowhere` is not a folder"),
        (["a red ball", "-o", "/proc/a.mp4"], "error: the folder `/proc` of `-o` may not be written by you\nhint: `-o` in another"),
        (["a red ball", "-o", "a.mp4", "--model", "./nowhere"], "error: `./nowhere` is not a folder\nhint: "),
    ],
)
def test_what_cannot_be_generated_answers_in_one_sentence(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sheeted.sheet.png").mkdir()
    code, out, err = say("generate", "--model", "./nowhere", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)


@pytest.mark.parametrize(
    "arguments",
    [("generate", "a ball", "-o", "a.mp4"), ("reconstruct", "a.mp4", "-o", "b.mp4"), ("calibrate", "a ball", "-o", "no/faster")],
)
def test_a_folder_that_may_not_be_written_is_said_before_anything_is_read(
    say: Say, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def refused(*arguments: object, **settings: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("flows.commands.videos.tempfile.NamedTemporaryFile", refused)  # root may write anywhere
    code, out, err = say(*arguments, "--model", "./nowhere")
    assert (code, out) == (2, "")
    assert err == "error: the folder `.` of `-o` may not be written by you\nhint: `-o` in another folder\n"


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-3"])
def test_a_likeness_that_is_none_is_refused_before_anything_is_read(say: Say, value: str) -> None:
    code, _, err = say("calibrate", "a ball", "-o", "faster", "--model", "./nowhere", "--min-psnr", value)
    assert code == 2
    assert err == f"error: `--min-psnr` is a finite number of dB above 0, not {float(value)}\nhint: 40 hardly shows, 30 does\n"


SAMPLED = {"sampler": "heun", "num_inference_steps": 9, "guidance_scale": 2.5, "timestep_shift": 3.0}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose project `demo` has two versions of a model: the first is champion, the gate refused the second."""
    folder = tmp_path_factory.mktemp("registered")
    project = Project(folder / "runs", "demo")
    for value, holds in ((1, True), (2, False)):
        weights = folder / f"weights-{value}"
        with new_folder(weights) as draft:
            (draft / "dit.json").write_text(json.dumps(value))
        version = models.register(
            project, "text-to-video", weights, {"following": 0.5 * value}, models.generate_tag(SAMPLED) if holds else {}
        )
        verdict = gates.Verdict([gates.Check("following", 0.1, 0.1, 0.4, holds, "following is 0.1 and must be 0.4")])
        models.promote(project, "text-to-video", version, verdict, models.find(project, "text-to-video", models.CHAMPION))
    return folder


def test_models_are_promoted_by_hand_and_rolled_back(say: Say, registered: Path) -> None:
    root = f"root={registered / 'runs'}"
    shown = json.loads(say("show", "models", "--set", root, "--json")[1])
    assert [(version["number"], version["aliases"]) for version in shown] == [(2, ["candidate"]), (1, ["champion"])]
    code, out, _ = say("show", "models", "--set", root)
    assert code == 0
    assert "following is 0.1 and must be 0.4" in out
    assert out.count("heun, 9 steps, 2.5 guidance") == 1, "of the version that says what it was evaluated with"
    code, _, err = say("promote", "--set", root)
    assert code == 2
    assert "error: the gate refused version 2 of `demo-text-to-video` (following is 0.1 and must be 0.4)\nhint: `--force`" in err
    code, _, err = say("promote", "--force", "--set", root)
    assert (code, err.splitlines()[-1]) == (0, "version 2 of `demo-text-to-video` is the champion, before it was version 1")
    code, _, err = say("rollback", "--set", root)
    assert (code, err.splitlines()[-1]) == (0, "version 1 of `demo-text-to-video` is the champion again")
    shown = json.loads(say("show", "models", "--set", root, "--json")[1])
    assert {version["number"]: version["aliases"] for version in shown} == {2: ["previous-champion"], 1: ["champion"]}


def test_a_promotion_by_hand_is_told_to_what_is_deployed_on_it(say: Say, registered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    told: list[dict[str, Any]] = []

    class Server(BaseHTTPRequestHandler):
        """As much of Prefect as hears of events."""

        def do_GET(self) -> None:
            self.answer(404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/api/events":
                told.extend(body)
            self.answer(200)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, root = f"http://127.0.0.1:{server.server_port}/api", f"root={registered / 'runs'}"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}):
        for _ in range(2):
            assert say("promote", "--version", "2", "--force", "--set", root)[0] == 0
        server.shutdown()
        server.server_close()
        code, _, err = say("promote", "--version", "1", "--set", root)
    assert [(event["event"], event["payload"]) for event in told] == [
        ("kinora.model.promoted", {"project": "demo", "model": "demo-text-to-video", "version": 2})
    ], "once, since a champion that is chosen again is no news"
    assert told[0]["resource"]["prefect.resource.id"] == "kinora.project.demo"
    assert code == 0, "a server that is away undoes no promotion"
    assert "warning: what is deployed on `model.promoted` was not told (no Prefect server at" in err


def test_a_model_that_is_not_there_answers_with_those_that_are(say: Say, registered: Path) -> None:
    root = f"root={registered / 'runs'}"
    for arguments, sentence in (
        (
            ["generate", "a ball", "-o", "a.mp4", "--project", "none"],
            "error: there is no `none-text-to-video` yet\nhint: `kinora run --project none`",
        ),
        (["generate", "a ball", "-o", "a.mp4", "--model", "7"], "error: `demo-text-to-video` has no `7`; there are 1, 2, "),
        (["promote", "captioner"], "error: there is no `demo-captioner` yet\nhint: "),
        (["rollback", "video-vae"], "error: `demo-video-vae` has no earlier champion to go back to\nhint: "),
        (["show", "models", "--project", "none"], "error: project `none` has no models yet\nhint: `kinora run --project none`"),
    ):
        code, _, err = say(*arguments, "--set", root)
        assert code == 2
        assert sentence in err
