"""A run's rows mirrored to Weights & Biases.

`metrics.csv` is the source of truth and this is a copy for those who like dashboards, so a
mirror cannot fail a run, hold it up for long or ask it anything: what goes wrong is said in one
line on stderr, and training goes on. Whoever publishes finished runs shares the functions below it.

An offline directory is published with `wandb sync <directory>/wandb/latest-run`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from bpgrad.errors import ConfigError

if TYPE_CHECKING:
    import wandb

CONNECT_TIMEOUT_S = 2.0
INIT_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 30.0
FLUSH_INTERVAL_S = 1.0


class WandbMirror:
    r"""Copies the rows of one run, one row an epoch, to W&B.

    Online, a run that cannot log in or reach the server is mirrored offline instead. Steps are
    epochs. A resumed online run continues the one with the same id: rows whose epoch the server
    already has are left as they are, the missing ones are added. Offline runs cannot be resumed,
    so each offline directory begins with `past_rows` and is complete in itself; of several
    directories of one run, the latest is the one to publish.

    Args:
        run_id: Identifies the run within the project; none of ``/ \ # ? % :``.
        name: Shown in the dashboard.
        group: Runs of one group are shown together.
        config: The composed config, of plain Python values.
        project: W&B project.
        entity: User or team; None is the account's default.
        mode: "online", "offline" or "disabled" (wandb is not even imported).
        directory: Everything is written under ``directory/wandb``.
        tags: Labels to filter by.
        past_rows: The rows recorded before a resume, in order of epoch.

    Raises:
        ConfigError: If `mode` is not one of the three.
    """

    def __init__(
        self,
        *,
        run_id: str,
        name: str,
        group: str | None,
        config: dict[str, Any],
        project: str,
        entity: str | None,
        mode: str,
        directory: Path,
        tags: Sequence[str] = (),
        past_rows: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self._run: wandb.Run | None = None
        self._offline = mode == "offline"
        if mode == "disabled":
            return
        if mode not in ("online", "offline"):
            raise ConfigError(f"wandb.mode={mode!r} is unknown; choose online, offline or disabled")
        identity = {
            "id": run_id,
            "name": name,
            "group": group,
            "config": config,
            "project": project,
            "entity": entity,
            "tags": list(tags),
        }
        try:
            self._run = _start(mode == "online", directory.absolute(), identity)
        except Exception as error:
            _warn(f"W&B could not be started ({reason(error)}); this run is not mirrored")
        for row in past_rows:
            self.log(row)

    def log(self, row: Mapping[str, float]) -> None:
        """Mirror one row; ``row["epoch"]`` is the x axis of every other value."""
        if self._run is None:
            return
        try:
            # wandb itself passes over steps that the server has since before a resume.
            self._run.log(dict(row), step=int(row["epoch"]), commit=True)
        except Exception as error:
            self._run = None
            _warn(f"W&B stopped mirroring this run ({reason(error)}); training goes on")
            close_service()

    def finish(
        self,
        summary: Mapping[str, float],
        exit_code: int = 0,
        pictures: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Close the run with its final values; waits for an upload at most `FINISH_TIMEOUT_S`.

        Args:
            summary: Final values, shown in the dashboard's table of runs.
            exit_code: 0 marks the run finished, anything else failed.
            pictures: Contents of picture files by their names.
        """
        run, self._run = self._run, None
        if run is None:
            return
        try:
            log_pictures(run, pictures)
            run.summary.update(dict(summary))
            run.finish(exit_code=exit_code)
            if self._offline:
                print(f"upload to W&B with: {_publish_command(run)}", flush=True)
        except Exception as error:
            _warn(f"W&B did not finish ({reason(error)}); publish with: {_publish_command(run)}")
            close_service()


def log_pictures(run: Any, pictures: Mapping[str, bytes], step: int | None = None) -> None:
    """Show picture files, as a task has drawn them, as pictures/<name> after all rows."""
    if pictures:
        import wandb
        from PIL import Image

        opened = {name: Image.open(io.BytesIO(content)) for name, content in pictures.items()}
        row = {f"pictures/{name}": wandb.Image(picture) for name, picture in opened.items()}
        run.log(row, step=step)


def prepare(directory: Path) -> None:
    """Set wandb up to write under ``directory/wandb`` and to be silent; before it is imported."""
    # wandb falls back to the system's temporary directory where it cannot write: fail instead.
    (directory / "wandb").mkdir(parents=True, exist_ok=True)
    # These take effect while wandb loads and starts its service process, before any settings.
    os.environ.setdefault("WANDB_CACHE_DIR", str(directory / "wandb" / "cache"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def init(
    mode: Literal["online", "offline"],
    directory: Path,
    identity: dict[str, Any],
    *,
    resume: Literal["allow"] | None,
    finish_timeout: float,
) -> wandb.Run:
    """Start a run that holds what it is given and nothing of the machine; after `prepare`.

    `identity` goes to ``wandb.init``. With `resume` None a run of the same id is replaced.
    """
    import wandb

    settings = wandb.Settings(
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=finish_timeout,
        finish_timeout_raises=True,
        # A killed process loses at most this much of its offline file.
        x_transaction_log_flush_interval=FLUSH_INTERVAL_S,
        use_dot_wandb=False,
        # Rows, config and summary only: no console, code, git, packages, paths or machine.
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        label_disable=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        host="",
        program="",
    )
    return wandb.init(
        mode=mode,
        dir=str(directory),
        resume=resume,
        reinit="create_new",  # leaves a `wandb.run` of the caller's own alone
        settings=settings,
        **identity,
    )


def close_service() -> None:
    """End wandb's service process now: with a dead one, its own hook fails noisily at exit."""
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()


def require_server() -> None:
    """Raise unless there are credentials and the server (or the proxy to it) answers at once.

    `wandb.init` would prompt without the former and wait for all of its timeout without the latter.
    """
    import wandb

    settings = wandb.setup(wandb.Settings(mode="online")).settings
    if not wandb.login(prompt=False, verify=False):
        raise ConnectionError("no API key: run `wandb login` or set WANDB_API_KEY")
    server = urlsplit(settings.base_url)
    proxy = settings.https_proxy if server.scheme == "https" else settings.http_proxy
    if not proxy and not proxy_bypass(server.hostname or ""):
        proxy = getproxies().get(server.scheme)
        if proxy and "//" not in proxy:
            proxy = f"http://{proxy}"
    address = urlsplit(proxy) if proxy else server
    host, port = address.hostname, address.port or (443 if address.scheme == "https" else 80)
    if not _answers(host, port):
        raise ConnectionError(f"no connection to {host}:{port}")


def reason(error: Exception) -> str:
    """An error of wandb's as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _start(online: bool, directory: Path, identity: dict[str, Any]) -> wandb.Run:
    """Start the run, offline where online is impossible."""
    prepare(directory)
    if not online:
        return _init_by_epoch("offline", directory, identity)
    try:
        require_server()
        return _init_by_epoch("online", directory, identity)
    except Exception as error:
        why = reason(error)
    close_service()  # it reserves the run id of a failed start for as long as it lives
    run = _init_by_epoch("offline", directory, identity)
    _warn(f"W&B is offline ({why}); publish this run later with: {_publish_command(run)}")
    return run


def _init_by_epoch(
    mode: Literal["online", "offline"], directory: Path, identity: dict[str, Any]
) -> wandb.Run:
    resume: Literal["allow"] | None = "allow" if mode == "online" else None
    run = init(mode, directory, identity, resume=resume, finish_timeout=FINISH_TIMEOUT_S)
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run


def _answers(host: str | None, port: int) -> bool:
    """Whether a TCP connection opens within `CONNECT_TIMEOUT_S`."""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
            connected.set()

    # A thread, because no timeout covers the name lookup, which hangs on machines without network.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_TIMEOUT_S)
    return connected.is_set()


def _publish_command(run: wandb.Run) -> str:
    options = "" if run.offline else "--include-online "  # without it, sync passes over such a run
    return f"wandb sync {options}{shlex.quote(str(Path(run.dir).parent))}"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
