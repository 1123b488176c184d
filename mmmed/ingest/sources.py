"""Which files there are to read: folders, zip archives and DICOMDIR, none of them trusted.

Symbolic links, devices and nested archives are refused with a reason. Archive members are unpacked under
numbers into a workspace, so that no name in an archive can reach outside it, and within limits on count,
size and ratio.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmmed.dicom.file import parse_dicom
from mmmed.errors import DataError

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 2 << 30
MAX_ARCHIVE_BYTES = 64 << 30
MAX_RATIO = 1000  # deflate itself cannot do more than 1032; text of one letter is no hospital's data
_SMALL = 10 << 20  # below this a high ratio harms nobody


@dataclass(frozen=True)
class Found:
    """A regular file to read. ``origin`` is the name that people know it by: the path, or ``archive!/member``."""

    path: Path
    origin: str

    @property
    def stem(self) -> str:
        """The file's own name without its ending; in an archive, the member's."""
        return Path(self.origin).stem


@dataclass(frozen=True)
class Skipped:
    """A file or part of one that is left out of the data set, and the reason."""

    origin: str
    reason: str


def absolute(origin: str) -> str:
    """The absolute, normalised path of an origin; links are not followed."""
    return os.path.abspath(origin)  # noqa: PTH100


def find_files(sources: Sequence[Path], workspace: Path) -> Iterator[Found | Skipped]:
    """All files below the sources, each once, in a stable order; archives are unpacked into ``workspace``.

    An unpacked file has its checksum as its time, so that size and time tell whether it has changed since another run.
    Raises `DataError` if a source does not exist.
    """
    seen: set[str] = set()
    for file in _all_files(sources, workspace):
        if (name := absolute(file.origin)) not in seen:
            seen.add(name)
            yield file


def _all_files(sources: Sequence[Path], workspace: Path) -> Iterator[Found | Skipped]:
    for source in sources:
        if not source.exists():
            raise DataError(f"{source}: no such file or folder; correct the source")
        if source.is_dir():
            yield from _walk(source, workspace)
        elif source.name.upper() == "DICOMDIR":
            yield from _listed(source)
        else:
            yield from _file(source, workspace)


def _walk(folder: Path, workspace: Path) -> Iterator[Found | Skipped]:
    closed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=closed.append, followlinks=False):
        folders.sort()
        here = Path(parent)
        if here.resolve() == workspace.resolve():
            folders.clear()
            continue
        for name in [name for name in folders if (here / name).is_symlink()]:
            yield Skipped(str(here / name), "symbolic link: name the folder it points to as a source")
        for name in sorted(files):
            yield from _file(here / name, workspace)
    for error in closed:
        yield Skipped(str(error.filename), f"folder that cannot be read ({error.strerror})")


def _file(path: Path, workspace: Path) -> Iterator[Found | Skipped]:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        yield Skipped(str(path), f"cannot be read ({error.strerror})")
        return
    if stat.S_ISLNK(mode):
        yield Skipped(str(path), "symbolic link: name the file it points to as a source")
    elif not stat.S_ISREG(mode):
        yield Skipped(str(path), "not a regular file")
    elif path.name.startswith("."):  # what is being received, and what file managers leave
        yield Skipped(str(path), "hidden file")
    elif path.name.upper() == "DICOMDIR":
        yield Skipped(str(path), "DICOMDIR index: the files it lists are read themselves")
    elif path.suffix.lower() == ".zip":
        yield from _unpack(path, workspace)
    else:
        yield Found(path, str(path))


def _listed(index: Path) -> Iterator[Found | Skipped]:
    """The files that a DICOMDIR lists (PS3.3 annex F), none from outside its folder."""
    try:
        records = parse_dicom(index).DirectoryRecordSequence
        listed = [r.ReferencedFileID for r in records if "ReferencedFileID" in r]
    except Exception as error:
        yield Skipped(str(index), f"not a readable DICOMDIR ({type(error).__name__}): name its folder")
        return
    root = index.parent.resolve()
    for parts in listed:
        path = root.joinpath(*([parts] if isinstance(parts, str) else map(str, parts)))
        if not path.resolve().is_relative_to(root):
            yield Skipped(str(path), "listed by a DICOMDIR, but outside its folder")
        elif not path.is_file():
            yield Skipped(str(path), "listed by a DICOMDIR, but missing")
        else:
            yield Found(path, str(path))


def _unpack(archive: Path, workspace: Path) -> Iterator[Found | Skipped]:
    folder = (
        workspace / f"{len(list(workspace.iterdir())):06}" if workspace.is_dir() else workspace / "000000"
    )
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            names = Counter(member.filename for member in members)
            problem = _archive_problem(members)
            if problem:
                yield Skipped(str(archive), problem)
                return
            folder.mkdir(parents=True)
            for number, member in enumerate(members):
                origin = f"{archive}!/{member.filename}"
                if problem := _member_problem(member, names):
                    yield Skipped(origin, problem)
                    continue
                name = member.filename.lower()
                ending = ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix[:8]
                target = folder / f"{number:06}{ending}"
                try:
                    with opened.open(member) as packed, target.open("wb") as file:
                        shutil.copyfileobj(packed, file)  # zipfile stops where the declared size ends
                except Exception as error:  # decompressors raise whatever they stumble over
                    target.unlink(missing_ok=True)
                    if _is_full(error):
                        raise
                    yield Skipped(origin, f"damaged or encrypted archive member ({type(error).__name__})")
                    continue
                os.utime(
                    target, ns=(member.CRC, member.CRC)
                )  # alike in every run for as long as the content is
                yield Found(target, origin)
    except Exception as error:
        if _is_full(error):
            raise
        yield Skipped(str(archive), f"not a readable zip archive ({type(error).__name__})")


def _is_full(error: Exception) -> bool:
    """Whether an error means that the disk is full, rather than that the archive is damaged."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _member_problem(member: zipfile.ZipInfo, names: Counter[str]) -> str:
    """Why one file of an archive is not unpacked; "" if it is."""
    if stat.S_ISLNK(member.external_attr >> 16):
        return "symbolic link in an archive: refused"
    if names[member.filename] > 1:
        return "archive that holds several files of one name: refused"
    if Path(member.filename).suffix.lower() == ".zip":
        return "archive in an archive: unpack it first"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"archive member larger than {MAX_MEMBER_BYTES >> 30} GiB"
    return ""


def _archive_problem(members: list[zipfile.ZipInfo]) -> str:
    if not members:
        return "archive without files"
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
        return f"archive of {len(members):,} files and {total >> 20:,} MiB: unpack it yourself"
    packed = sum(member.compress_size for member in members)
    if total > _SMALL and total > MAX_RATIO * max(packed, 1):
        return "archive that unpacks to more than 1000 times its size: refused"
    return ""


def clear_workspace(workspace: Path) -> None:
    """Delete the unpacked files, which are not de-identified."""
    shutil.rmtree(workspace, ignore_errors=True)
