"""Ten classes of ImageNet at 160 pixels, in two editions whose numbers are not comparable."""

import os
import re
import tarfile
import tempfile
from pathlib import Path

from bpgrad.data.files import DOWNLOAD_ERRORS, Source, read_verified
from bpgrad.data.imagefolder import unreadable
from bpgrad.data.unpacked import PARTS, Placed, Unpacked
from bpgrad.errors import DataError

URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
MEMBER = r"(?:\./)?{}/(?P<part>train|val)/(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)"  # in the archive

#: Squashed to 160 × 160 pixels.
IMAGENETTE = Source(
    name="imagenette",
    folder="imagenette2",
    md5={
        "train/": "f573e032db6ccb0e0788d4460c2c6749",
        "val/": "a434f239cdb6e6971c18bbfb0d15e70f",
    },
    by_hand="take imagenette from github.com/thunderInfy/imagenette, resampled to 160 × 160 pixels "
    "(Lanczos, JPEG quality 68); or have, without that folder, torchvision's edition, whose "
    "numbers are others: python scripts/get_data.py imagenette2-160",
    look=unreadable,
)


class _Torchvision(Unpacked):
    """Its archive lies in the data root, beside the folder, as torchvision places both."""

    def archive(self, data_root: Path) -> Path:
        (name,) = self.md5
        return data_root / name

    def download(self, data_root: Path) -> None:
        """Unpack the archive, downloaded if it is not there, unless all is there and whole.

        What lies there already, by torchvision's hand too, is compared with it and mended.

        Raises:
            DataError: the download failed, what came is not the archive, or it cannot be unpacked.
        """
        try:
            return self.verify(data_root)
        except DataError:
            pass
        archive, target = self.archive(data_root), data_root / self.folder
        try:
            data_root.mkdir(parents=True, exist_ok=True)
            self._have(archive)
            parts = {part: Placed(target / part, contents=True) for part in PARTS}
            with tarfile.open(archive, "r:gz") as content:
                for member in content:
                    found = re.fullmatch(MEMBER.format(self.folder), member.name)
                    if found and member.isfile():
                        parts[found["part"]].place(content, member, found["name"])
            for part in parts.values():
                part.check_nothing_else()
            self.write_receipt(data_root)
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{self.name}: {target} was not unpacked ({error})") from error

    def _have(self, archive: Path) -> None:
        (md5,) = self.md5.values()
        try:
            read_verified(archive, md5)
        except DataError:
            try:
                with tempfile.TemporaryDirectory(prefix=".", dir=archive.parent) as folder:
                    fetch(URL, Path(folder, archive.name), md5)
                    os.replace(Path(folder, archive.name), archive)
            except DOWNLOAD_ERRORS as error:
                raise self._failed(archive.parent, error) from error


#: torchvision.datasets.Imagenette(size="160px"): the shorter side has 160 pixels.
IMAGENETTE_160 = _Torchvision(
    name="imagenette2-160",
    folder="imagenette2-160",
    md5={"imagenette2-160.tgz": "e793b78cc4c9e9a4ccc0c1155377a412"},
    torchvision_name="Imagenette",
    look=unreadable,
)


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file; raises what `DOWNLOAD_ERRORS` has, also if it has another md5."""
    from torchvision.datasets.utils import download_url  # slow to import, and rarely needed

    download_url(url, path.parent, path.name, md5)
    read_verified(path, md5)
