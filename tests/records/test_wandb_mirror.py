"""The W&B mirror against the files it leaves behind and against a small imitation of the server.

wandb keeps state in the process, so all but the error handling runs in forks with an empty
home, an empty working directory and no credentials.
"""

import importlib
import json
import math
import os
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb.sdk.launch  # noqa: F401 which the start of a run imports: once for all the forks

from bpgrad.errors import ConfigError
from bpgrad.records import wandb_mirror
from bpgrad.records.wandb_mirror import WandbMirror
from tests.forked import Script

REPOSITORY = Path(__file__).parents[2]
RUN_ID = "digits-bpgrad-seed0"
KEY = "0" * 40
ROWS = [
    {"epoch": 1, "train/objective": 1 / 3, "val/error": 12.5},
    {"epoch": 2, "train/objective": math.nan, "val/error": math.inf},
    {"epoch": 3, "train/objective": 1e-30, "val/error": 0.0},
]
ROW_4 = {"epoch": 4, "train/objective": 0.25, "val/error": 1.0}
ROW_5 = {"epoch": 5, "train/objective": 0.125, "val/error": 2.0}

PRELUDE = f"""
import json, signal, sys, time, urllib.request
from math import inf, nan
from pathlib import Path
from bpgrad.records import wandb_mirror

ROWS, ROW_4, ROW_5 = {ROWS}, {ROW_4}, {ROW_5}

def mirror(mode, past_rows=()):
    return wandb_mirror.WandbMirror(
        run_id="{RUN_ID}", name="bpgrad, seed 0", group="digits bpgrad", project="tests",
        config={{"solver": {{"rho": 0.1}}, "seed": 0}}, entity=None, mode=mode,
        directory=Path(sys.argv[1]), tags=["smoke"], past_rows=past_rows,
    )

def mirror_all_rows(mode):
    run = mirror(mode)
    for row in ROWS:
        run.log(row)
    run.finish({{"best": 1.5}})
"""


def run_script(body: str, folder: Path, **environment: str) -> tuple[str, str]:
    """Run `PRELUDE` and `body`, which must not leave files outside ``folder/mirror``.

    Returns what it has written to its two outputs.
    """
    home, working_directory = folder / "home", folder / "cwd"
    home.mkdir()
    working_directory.mkdir()
    done = Script(
        PRELUDE + body,
        working_directory,
        str(folder / "mirror"),
        PATH=os.environ["PATH"],
        HOME=str(home),
        NETRC=str(home / ".netrc"),
        **environment,
    )
    out, errors = done.communicate()
    assert done.returncode == 0, errors
    assert not any(home.iterdir())
    assert not any(working_directory.iterdir())
    return out, errors


def records(run_directory: Path) -> list[Any]:
    """The protobuf records of a run's ``.wandb`` file, which is framed like a LevelDB log."""
    protocol = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (path,) = run_directory.glob("run-*.wandb")
    data = path.read_bytes()
    found, parts, position = [], b"", 7  # after the file's own header
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += 7 + length
        parts += data[position - length : position]
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(protocol.Record.FromString(parts))
            parts = b""
    return found


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def rows(run_directory: Path) -> list[dict[str, Any]]:
    """The logged rows; asserts that each row's step is its epoch."""
    found = []
    for record in records(run_directory):
        if record.WhichOneof("record_type") == "history":
            row = values(record.history.item)
            if any(key.startswith("pictures/") for key in row):
                continue
            assert record.history.step.num == row["_step"] == row["epoch"]
            found.append({key: row[key] for key in row if not key.startswith("_")})
    return found


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, float]]) -> None:
    assert [row["epoch"] for row in found] == [row["epoch"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=0, nan_ok=True)


def run_directories(folder: Path, pattern: str = "*run-2*") -> list[Path]:
    return sorted(
        (folder / "mirror" / "wandb").glob(pattern), key=lambda path: path.stat().st_mtime
    )


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.history: list[str] = []
        self.upserts: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.vanished = False
        self.closed = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    do_POST = do_PUT

    def do_GET(self) -> None:
        self.server.vanished |= self.path == "/vanish"
        self.reply({})

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, body: bytes) -> None:
        server = self.server
        if server.vanished:
            server.closed.wait()
            return
        if self.path.endswith("/file_stream"):
            request = json.loads(body)
            if lines := request.get("files", {}).get("wandb-history.jsonl"):
                server.history[lines["offset"] :] = lines["content"]
            if request.get("complete"):
                server.exit_codes.append(request["exitcode"])
            self.reply({})
        elif self.path == "/graphql":
            self.reply({"data": self.query(**json.loads(body))})
        else:
            self.reply({})  # an uploaded file

    def query(self, operationName: str, variables: dict[str, Any], **_: object) -> dict[str, Any]:
        server = self.server
        project = {"id": "project", "name": "tests", "entity": {"id": "entity", "name": "me"}}
        run = {
            "id": "run",
            "name": RUN_ID,
            "displayName": "bpgrad, seed 0",
            "config": "{}",
            "project": project,
            "historyLineCount": len(server.history),
        }
        if operationName == "UpsertBucket":
            server.upserts.append(variables)
            return {"upsertBucket": {"bucket": run, "inserted": not server.history}}
        if operationName == "RunResumeStatus":
            if not server.history:
                return {"model": None}
            resumed = {
                "logLineCount": 0,
                "eventsLineCount": 0,
                "eventsTail": "[]",
                "historyTail": json.dumps(server.history[-1:]),
                "summaryMetrics": server.history[-1],
                "wandbConfig": '{"t": 1}',
                "tags": [],
            }
            return {"model": {**project, "bucket": {**run, **resumed}}}
        if operationName == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": server.url} for name in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(getattr(request, "param", 200)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.closed.set()
        running.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    body = """
for name in list(sys.modules):
    if name.split(".")[0] in ("bpgrad", "wandb"):
        del sys.modules[name]
from bpgrad.records import wandb_mirror
mirror_all_rows("disabled")
print("wandb" in sys.modules)
"""
    assert run_script(body, tmp_path) == ("False\n", "")
    assert not (tmp_path / "mirror").exists()


def test_offline_files_hold_every_row_and_nothing_else(tmp_path: Path) -> None:
    body = """
def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

before = handlers()
mirror_all_rows("offline")
resumed = mirror("offline", past_rows=ROWS)
print("not for W&B")
assert handlers() == before
resumed.log(ROW_4)
from PIL import Image
import io
drawn = io.BytesIO()
Image.new("RGB", (4, 3), "red").save(drawn, "WEBP")
resumed.finish({}, exit_code=3, pictures={"one": drawn.getvalue()})
"""
    out, errors = run_script(body, tmp_path)
    first, second = run_directories(tmp_path)
    said = [f"upload to W&B with: wandb sync {folder}" for folder in (first, second)]
    assert out.splitlines() == [said[0], "not for W&B", said[1]]
    assert errors == ""

    assert (tmp_path / "mirror" / "wandb" / "latest-run").resolve() == second
    assert first.name.startswith("offline-run-")
    assert_same_rows(rows(first), ROWS)
    assert_same_rows(rows(second), [*ROWS, ROW_4])
    drawn = [values(r.history.item) for r in records(second) if r.HasField("history")][-1]
    assert drawn["pictures/one/width"] == 4
    assert (second / "files" / drawn["pictures/one/path"]).is_file()

    kinds: dict[str, list[Any]] = {}
    for record in [*records(first), *records(second)]:
        kind = record.WhichOneof("record_type")
        kinds.setdefault(kind, []).append(getattr(record, kind))
    expected = {"header", "run", "telemetry", "metric", "summary", "history", "files", "exit"}
    assert set(kinds) == expected
    run = kinds["run"][0]
    assert (run.run_id, run.display_name, run.run_group) == (
        RUN_ID,
        "bpgrad, seed 0",
        "digits bpgrad",
    )
    assert (run.project, run.entity, list(run.tags)) == ("tests", "", ["smoke"])
    assert (run.host, run.git.commit, run.git.remote_url) == ("", "", "")
    config = values(run.config.update)
    assert config == {"solver": {"rho": 0.1}, "seed": 0, "_wandb": {}}
    assert [(m.name or m.glob_name, m.step_metric) for m in kinds["metric"][:2]] == [
        ("epoch", ""),
        ("*", "epoch"),
    ]
    assert {"best": 1.5} in [values(summary.update) for summary in kinds["summary"]]
    assert [end.exit_code for end in kinds["exit"]] == [0, 3]
    assert not any((first / "files").iterdir())


# A slow machine takes seconds to start wandb: whoever waits for a timeout takes minutes here.
TIMED = """
import wandb
wandb_mirror.INIT_TIMEOUT_S = 120.0
start = time.perf_counter()
run = mirror("online", past_rows=ROWS)
print(time.perf_counter() - start)
run.log(ROW_4)
run.finish({})
"""


def assert_fell_back_to_offline(out: str, errors: str, folder: Path, reason: str) -> None:
    """One warning that names the reason and the command, and a complete offline run."""
    *_, last = run_directories(folder, "offline-run-2*")
    assert errors.startswith("warning: W&B is offline (")
    assert reason in errors
    assert errors.endswith(f"wandb sync {last}\n")
    assert errors.count("\n") == 1
    assert_same_rows(rows(last), [*ROWS, ROW_4])
    assert float(out) < 60


@pytest.mark.parametrize(
    ("key", "reason"), [({}, "no API key"), ({"WANDB_API_KEY": "abc"}, "must have 40+ characters")]
)
def test_online_without_a_usable_key_is_offline(
    tmp_path: Path, key: dict[str, str], reason: str
) -> None:
    # A settings file, since wandb says that it reads one before it can be told to be silent.
    (tmp_path / "settings").write_text("[default]\nbase_url = http://wandb.invalid\n")
    out, errors = run_script(TIMED, tmp_path, WANDB_CONFIG_DIR=str(tmp_path), **key)
    assert_fell_back_to_offline(out, errors, tmp_path, reason)
    assert len(run_directories(tmp_path)) == 1


@pytest.mark.parametrize("through_proxy", [False, True])
def test_online_without_network_is_offline(tmp_path: Path, through_proxy: bool) -> None:
    address = f"127.0.0.1:{closed_port()}"
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://{address}"}
    if through_proxy:
        environment["WANDB_BASE_URL"] = "http://wandb.invalid"
        environment["http_proxy"] = f"http://user:secret@{address}"
    out, errors = run_script(TIMED, tmp_path, **environment)
    assert_fell_back_to_offline(out, errors, tmp_path, f"no connection to {address}")
    assert len(run_directories(tmp_path)) == 1


@pytest.mark.parametrize("server", [401], indirect=True)
def test_a_refused_run_is_offline(tmp_path: Path, server: Server) -> None:
    out, errors = run_script(TIMED, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert_fell_back_to_offline(out, errors, tmp_path, "401")


def test_online_resume_adds_what_the_server_lacks_and_a_lost_network_does_not_hang(
    tmp_path: Path, server: Server
) -> None:
    body = """
mirror_all_rows("online")

changed = [{**row, "val/error": -1.0} for row in ROWS]
resumed = mirror("online", past_rows=[*changed, ROW_4])
resumed.finish({}, exit_code=1)

wandb_mirror.FINISH_TIMEOUT_S = 1.0
run = mirror("online", past_rows=[*changed, ROW_4])
urllib.request.urlopen(wandb_url + "/vanish")
run.log(ROW_5)
start = time.perf_counter()
run.finish({})
print(time.perf_counter() - start)
"""
    out, errors = run_script(
        f"wandb_url = {server.url!r}\n{body}",
        tmp_path,
        WANDB_API_KEY=KEY,
        WANDB_BASE_URL=server.url,
    )
    on_server = [json.loads(line) for line in server.history]
    assert [row["_step"] for row in on_server] == [1, 2, 3, 4]
    plain = [{k: v for k, v in row.items() if not k.startswith("_")} for row in on_server]
    assert_same_rows(plain, [*ROWS, ROW_4])
    assert server.exit_codes == [0, 1]
    for upsert in server.upserts:
        assert [upsert[key] for key in ("host", "program", "repo", "commit")] == [None] * 4

    *_, last = run_directories(tmp_path)
    assert float(out) < 30  # FINISH_TIMEOUT_S unless set
    assert errors == (
        "warning: W&B did not finish (Timed out finishing run.); "
        f"publish with: wandb sync --include-online {last}\n"
    )
    assert_same_rows(rows(last), [ROW_5])


class BrokenRun:
    """Raises `error` whenever it is used."""

    offline = True
    dir = "/records/wandb/offline-run-1/files"

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.summary = SimpleNamespace(update=self.log)

    def log(self, *_: object, **__: object) -> None:
        raise self.error


def mirror_of(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, past_rows: list[dict[str, float]]
) -> WandbMirror:
    monkeypatch.setattr(wandb_mirror, "_start", lambda *_: BrokenRun(error))
    return a_mirror("offline", past_rows)


def a_mirror(mode: str, past_rows: list[dict[str, float]]) -> WandbMirror:
    return WandbMirror(
        run_id=RUN_ID,
        name="",
        group=None,
        config={},
        project="tests",
        entity=None,
        mode=mode,
        directory=Path("unused"),
        past_rows=past_rows,
    )


def test_an_error_while_logging_warns_once_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = mirror_of(monkeypatch, RuntimeError("two\nlines"), past_rows=ROWS)
    mirror.log(ROW_4)
    mirror.finish({"best": 1.0})
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "warning: W&B stopped mirroring this run (two lines); training goes on\n"


def test_an_error_while_finishing_names_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = mirror_of(monkeypatch, TimeoutError(), past_rows=[])
    mirror.finish({})
    mirror.finish({})
    assert capsys.readouterr().err == (
        "warning: W&B did not finish (TimeoutError); "
        "publish with: wandb sync /records/wandb/offline-run-1\n"
    )


def test_an_error_while_starting_leaves_the_run_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/records/wandb")

    monkeypatch.setattr(wandb_mirror, "_start", fail)
    mirror = a_mirror("offline", ROWS)
    mirror.log(ROW_4)
    mirror.finish({})
    assert capsys.readouterr().err == (
        "warning: W&B could not be started ([Errno 13] Permission denied: '/records/wandb'); "
        "this run is not mirrored\n"
    )


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirror_of(monkeypatch, KeyboardInterrupt(), past_rows=[])
    with pytest.raises(KeyboardInterrupt):
        mirror.log(ROW_4)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ofline' is unknown; choose online, offline or disab"):
        a_mirror("ofline", [])
