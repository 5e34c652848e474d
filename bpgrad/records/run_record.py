"""The directory of one run: results/runs/<task>/<solver>/seed<k>-<hash8>/ (design: run record).

    config.yaml    what identifies the run, resolved
    meta.json      hashes of the initial weights and of the batch order, data md5s, and for each
                   start: time, commit, versions, machine
    metrics.csv    a row an epoch; the same bits on every CPU run of the same versions and threads
    timing.csv     a row an epoch: separate clocks, images/s
    consumed.csv   the sha256 of what each epoch has consumed: examples, order, augmentation
    steps.npz      a row an iteration for the first epochs, quantiles for every epoch; of a run that
                   is under way or was killed it may lack the last epochs
    pictures/      small pictures of what the model does, of tasks that draw some (WebP)
    ranked.npz     what detections and what objects each test image has (bpgrad.metrics.voc.Ranked),
                   of detection; of segmentation confusion.npz, how often it calls what what
    result.json    final metrics (null: not finite) and the sha256 of every file; written last, only
                   on success

Checkpoints and the full series lie elsewhere, under the same relative path. Both roots have .locks,
with a file for each process at a run, and .rerun, where a run that is done again is recorded until
it is complete and takes the old one's place.
"""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from PIL.Image import Image

from bpgrad.errors import RecordError
from bpgrad.records import reading
from bpgrad.records.files import (
    append_line,
    told_as_one_line,
    write_arrays,
    write_bytes,
    write_text,
)
from bpgrad.records.reading import Content, Row

__all__ = ["Row", "RunRecord"]

LOCKS, RERUN, OLD = ".locks", ".rerun", ".old"


class RunRecord:
    """Reads and writes the files of one run. What is read is checked: see `reading`.

    `name` is the relative path, `results` and `checkpoints` the two roots. `replaces` is the record
    whose place this one takes when it is complete.
    """

    def __init__(
        self, results: Path, checkpoints: Path, name: str, replaces: "RunRecord | None" = None
    ) -> None:
        self.name = name
        self.roots = (results, checkpoints)
        self.directory = results / name
        self.checkpoints = checkpoints / name
        self.replaces = replaces
        self._locks: list[FileLock] = []
        self._made: list[Path] = []  # folders that were not there before, inner ones last

    @property
    def rerun(self) -> "RunRecord":
        """Where the run is recorded while it is done again."""
        results, checkpoints = self.roots
        return RunRecord(results / RERUN, checkpoints / RERUN, self.name, replaces=self)

    # -- who may write ---------------------------------------------------------------------------

    def begin(self, *, rerun: bool = False) -> dict[str, Any] | None:
        """The result of a run that has finished, else None, and the run is this process's.

        Raises RecordError if another process is at it, if the record is damaged, or if a folder
        cannot be written; a finished run's need not be.
        """
        if not rerun and (result := self.result()) is not None:
            return result
        self.lock()
        try:
            self._recover()
            return None if rerun else self.result()
        except BaseException:
            self.unlock()
            raise

    def lock(self) -> None:
        """Claim the run, in both roots, for this process until `unlock` or its death.

        Raises RecordError if another process is at it, or if a folder cannot be written.
        """
        try:
            for root in {root.resolve(): root for root in self.roots}.values():
                self._claim(root)
        except Timeout as error:
            self.unlock()
            raise RecordError(
                f"{self.directory} is in use by another process; wait for it or stop it"
            ) from error
        except OSError as error:
            self.unlock()
            raise RecordError(
                f"cannot write {error.filename or self.directory}: {error.strerror}; set "
                "results_root and checkpoint_root to folders you can write"
            ) from error

    def _claim(self, root: Path, attempts: int = 10) -> None:
        """Lock the run in a root; `unlock` of another process may just remove an empty folder."""
        for folder in (root / self.name, root / LOCKS):
            self._made += (
                path for path in (*reversed(folder.parents), folder) if not path.exists()
            )
        lock = FileLock(root / LOCKS / f"{self.name.replace('/', '-')}.lock")
        try:
            for folder in (root / self.name, root / LOCKS):
                folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except FileNotFoundError:
            if attempts == 1:
                raise
            return self._claim(root, attempts - 1)
        self._locks.append(lock)

    def unlock(self) -> None:
        """Let other processes have the run; no folder stays that was made for nothing."""
        while self._locks:
            lock = self._locks.pop()
            with suppress(OSError):  # while it is held: who opened it before looks again
                os.unlink(lock.lock_file)
            lock.release()
        while self._made:
            with suppress(OSError):  # not empty, as usual
                self._made.pop().rmdir()

    def complete(self) -> "RunRecord":
        """Take the place of the record that this one was to replace, which is removed.

        Returns the record in its final place. At every moment the old or the new one is whole:
        `begin` ends what a kill has cut.
        """
        if self.replaces is None:
            return self
        with told_as_one_line(self.replaces.directory):
            _put_in_place(self.directory, self.replaces.directory, self.replaces.roots[0])
            _put_in_place(self.checkpoints, self.replaces.checkpoints, self.replaces.roots[1])
        return self.replaces

    def discard(self) -> None:
        """Remove what is recorded of a rerun."""
        assert self.replaces is not None
        with told_as_one_line(self.directory):
            for folder in (self.directory, self.checkpoints):
                shutil.rmtree(folder, ignore_errors=True)

    def _recover(self) -> None:
        """End what a kill has cut in `complete`."""
        with told_as_one_line(self.directory):
            for root in self.roots:
                old, here = root / OLD / self.name, root / self.name
                if old.exists() and not any(here.iterdir()):  # empty: made by `lock`
                    here.rmdir()
                    old.rename(here)
                _remove(old, root / OLD)
            rerun = self.rerun
            if rerun.checkpoints.exists() and not rerun.directory.exists():
                if (self.directory / "result.json").exists():
                    _put_in_place(rerun.checkpoints, self.checkpoints, self.roots[1])
                else:  # of a rerun that was given up, or diverged
                    _remove(rerun.checkpoints, self.roots[1] / RERUN)

    # -- reading ---------------------------------------------------------------------------------

    def read(self) -> Content:
        """All files but steps.npz, checked and compared. Raises RecordError if one is damaged."""
        return reading.read(self.directory)

    def result(self) -> dict[str, Any] | None:
        """The final metrics if the run has finished, else None.

        Raises RecordError if the record is damaged.
        """
        finished = reading.there(self.directory / "result.json")
        return self.read().result if finished else None

    def meta(self) -> dict[str, Any]:
        """What is known of the run's starts and hashes; empty for a new run."""
        return reading.read_meta(self.directory)

    def rows(self, file: str = "metrics.csv") -> list[Row]:
        """The rows of a CSV file of the run; none if it is not there yet."""
        return reading.read_rows(self.directory, file)

    def consumed(self) -> list[str]:
        """The sha256 of what each epoch has consumed; none in records older than that file."""
        return reading.read_consumed(self.directory)

    def steps(self) -> dict[str, np.ndarray]:
        """The arrays of steps.npz. Raises RecordError if it is missing or damaged."""
        return reading.read_steps(self.directory)

    def check_config(self, description: Mapping[str, Any]) -> None:
        """Compare the recorded configuration with the one that is about to run, key by key.

        Raises RecordError where the two differ: the directory's name then no longer says what is
        in it (an edited file, or a changed default). Keys that one of them lacks do not count.
        """
        recorded = reading.read_config(self.directory)
        key = _first_difference(recorded, json.loads(json.dumps(description)))
        if key is not None:
            raise RecordError(
                f"{self.directory / 'config.yaml'} describes another run (they differ in {key}); "
                "move the directory away, or add rerun=true to replace it"
            )

    # -- writing ---------------------------------------------------------------------------------

    def write_config(self, description: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(json.loads(json.dumps(description)), sort_keys=False)
        write_text(self.directory / "config.yaml", text)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        self._write_json("meta.json", meta)

    def write_rows(
        self,
        file: str,
        rows: Sequence[Mapping[str, object]],
        columns: Sequence[str] | None = None,
    ) -> None:
        """Write all rows of a CSV file; what only some rows have is empty in the others.

        Without a row there is no file.
        """
        if not rows:
            with told_as_one_line(self.directory / file):
                (self.directory / file).unlink(missing_ok=True)
            return
        columns = columns or list(dict.fromkeys(key for row in reversed(rows) for key in row))
        lines = [_line(columns), *(_line([row.get(key, "") for key in columns]) for row in rows)]
        write_text(self.directory / file, "\n".join(lines) + "\n")

    def append_row(self, file: str, row: Mapping[str, object]) -> None:
        """Append a row to a CSV file; all are written again only where it has a new column."""
        header = self._header(file)
        if row.keys() <= set(header):
            append_line(self.directory / file, _line([row.get(key, "") for key in header]))
        else:
            self.write_rows(file, [*self.recorded(file), row])

    def cut_rows(self, file: str, count: int) -> None:
        """Keep the first rows of a CSV file, with the columns that they have, and no more."""
        rows, header = self.recorded(file), self._header(file)
        columns = [key for key in header if any(key in row for row in rows[:count])]
        whole = not header or (self.directory / file).read_bytes().endswith(b"\n")
        if len(rows) > count or columns != header or not whole:
            self.write_rows(file, rows[:count], columns)

    def _header(self, file: str) -> list[str]:
        path = self.directory / file
        if not path.exists():
            return []
        with reading.checked(path), path.open(encoding="utf-8", newline="") as text:
            return next(csv.reader(text))

    def recorded(self, file: str) -> list[dict[str, str]]:
        """The rows of a CSV file as they stand there, without what is empty."""
        path = self.directory / file
        if not path.exists():
            return []
        with reading.checked(path):
            return [
                {key: value for key, value in row.items() if value}
                for row in reading.read_texts(path)
            ]

    def write_steps(self, arrays: Mapping[str, np.ndarray]) -> None:
        write_arrays(self.directory / "steps.npz", arrays)

    def write_picture(self, name: str, picture: Image) -> None:
        memory = io.BytesIO()
        picture.save(memory, "WEBP", quality=80)
        write_bytes(self.directory / "pictures" / f"{name}.webp", memory.getvalue())

    def write_outputs(self, small: Mapping[str, bytes], large: Mapping[str, bytes]) -> None:
        """Write files of what the model does: into the record, and beside the checkpoints."""
        for folder, files in ((self.directory, small), (self.checkpoints, large)):
            for name, content in files.items():
                write_bytes(folder / name, content)

    def pictures(self) -> dict[str, bytes]:
        """The pictures' files, by name."""
        files = sorted((self.directory / "pictures").glob("*.webp"))
        return {path.stem: path.read_bytes() for path in files}

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the final metrics, what is not finite as None, as they are returned."""
        written = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        sums = reading.checksums(self.directory, written)
        self._write_json("result.json", {**written, reading.CHECKSUMS: sums})
        return written

    def _write_json(self, file: str, content: Mapping[str, Any]) -> None:
        write_text(self.directory / file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _put_in_place(new: Path, here: Path, root: Path) -> None:
    """Move a folder, if it is there, to where another is, which is removed."""
    if not new.exists():
        return
    old = root / OLD / here.relative_to(root)
    _remove(old, root / OLD)
    old.parent.mkdir(parents=True, exist_ok=True)
    if here.exists():
        here.rename(old)
    here.parent.mkdir(parents=True, exist_ok=True)
    new.rename(here)
    _remove_empty(new.parent, root)
    _remove(old, root / OLD)


def _remove(folder: Path, aside: Path) -> None:
    """Remove a folder that lies below `aside`, and what is empty then."""
    if folder.exists():
        shutil.rmtree(folder)
    _remove_empty(folder.parent, aside.parent)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and root in folder.parents:
        with suppress(OSError):  # not empty, or not there
            folder.rmdir()
        folder = folder.parent


def _line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(map(str, values))
    return text.getvalue()


def _first_difference(one: Any, other: Any, key: str = "") -> str | None:
    """The first key, dotted, that both have with different values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() & other.keys():
            if found := _first_difference(one[name], other[name], f"{key}.{name}".strip(".")):
                return found
        return None
    return None if one == other else key
