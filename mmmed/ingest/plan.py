"""What is to be written: images, volumes, sounds and waveforms, and whose they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mmmed.deidentify.keys import SiteKey
from mmmed.dicom.file import is_dicom, open_dicom
from mmmed.dicom.pixels import modality_values
from mmmed.dicom.series import MIN_SLICES, geometry
from mmmed.errors import DataError
from mmmed.ingest.clips import is_clip, write_clip
from mmmed.ingest.edf import EDF, write_edf
from mmmed.ingest.items import Written, copy_nifti, write_image, write_volume
from mmmed.ingest.note_matching import Notes
from mmmed.ingest.scan import SOUNDS, WFDB_HEADER, Instance, Scan
from mmmed.ingest.signals import (
    signal_files,
    write_audio,
    write_dicom_audio,
    write_dicom_waveform,
    write_wfdb,
)
from mmmed.ingest.sources import Found, Skipped, absolute

Writer = Callable[[str, Path], Written]
_CLIP = " (clip)"


@dataclass(frozen=True)
class Item:
    """One file of the data set. ``write(name, out)`` makes it, or raises `DataError`.

    ``part`` tells it in reasons from another item that is made of the same files.
    """

    name: str
    files: tuple[Found, ...]
    patient: str
    study: str
    facts: dict[str, str]
    write: Writer
    part: str = ""


def dicom_items(found: Scan, key: SiteKey, skipped: list[Skipped]) -> Iterator[Item]:
    """One item for each series that forms a volume, and one for each other DICOM object; two for a clip."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in found.instances:
        series[one.series].append(one)
    for uid, instances in series.items():
        if len({(one.patient, one.study) for one in instances}) > 1:
            skipped += [
                Skipped(one.found.origin, "series of several patients or studies") for one in instances
            ]
            continue
        instances, left_out = _one_stack(instances)
        skipped += left_out
        slices = [replace(plane, file=i) for i, one in enumerate(instances) for plane in one.slices]
        volume = geometry(slices) if len(slices) > 2 and all(one.slices for one in instances) else None
        if isinstance(volume, str):
            skipped += [Skipped(one.found.origin, volume) for one in instances]
        elif volume is not None:
            files = [one.found for one in instances]
            identity = f"{uid}\0" + "\0".join(sorted(one.sop for one in instances))
            yield _dicom_item(key, identity, instances, partial(write_volume, files, volume))
        else:
            for one in instances:
                yield _dicom_item(key, one.sop, [one], _object_writer(one))
                if one.clip:
                    clip = _dicom_item(key, f"{one.sop}\0clip", [one], partial(write_clip, one.found))
                    yield replace(clip, part=_CLIP)


_SCOUT = "localiser, or slice that lies or is sampled otherwise than the others of its series: no part of the volume"
_UNPLACED = (
    "slice without position, orientation or pixel spacing, in a series of slices: it belongs to no volume; export "
    "it again"
)
_TWICE = "slice that was sent twice: the same place and the same pixels"


def _one_stack(instances: list[Instance]) -> tuple[list[Instance], list[Skipped]]:
    """Of a series with enough slices, those that lie alike; what is left out of it with the reason.

    A series of pictures, and one with several stacks, comes back whole.
    """
    if sum(one.stacked or bool(one.slices) for one in instances) < MIN_SLICES:
        return instances, []
    alike: dict[object, list[Instance]] = defaultdict(list)
    for one in instances:
        if one.slices:
            first = one.slices[0]
            alike[(first.shape, _rounded(first.orientation), _rounded(first.spacing))].append(one)
    stacks = [group for group in alike.values() if sum(len(one.slices) for one in group) >= MIN_SLICES]
    unplaced = [one for one in instances if not one.slices]
    left_out = [
        Skipped(one.found.origin, _UNPLACED if one.stacked else _SCOUT)
        for one in unplaced
        if one.stacked or one.scout
    ]
    if not stacks:
        return [one for one in instances if one.slices or (not one.stacked and not one.scout)], left_out
    if len(stacks) > 1:
        return [one for one in instances if one.slices], left_out
    others = [one for one in instances if one.slices and one not in stacks[0]]
    left_out += [
        Skipped(one.found.origin, _SCOUT) for one in [*others, *unplaced] if not one.stacked or one in others
    ]
    kept, twice = _once(stacks[0])
    return kept, [*{one.origin: one for one in left_out}.values(), *twice]


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 2) + 0.0 for value in values)


def _once(instances: list[Instance]) -> tuple[list[Instance], list[Skipped]]:
    """Slices without those that were sent again under another name."""
    places: dict[tuple[float, ...], list[Instance]] = defaultdict(list)
    for one in instances:
        places[_rounded(one.slices[0].position)].append(one)
    twice = [
        other
        for first, *others in places.values()
        for other in others
        if len(first.slices) == len(other.slices) == 1 and _content(first) == _content(other)
    ]
    again = {one.sop for one in twice}
    return [one for one in instances if one.sop not in again], [
        Skipped(one.found.origin, _TWICE) for one in twice
    ]


def _content(instance: Instance) -> object:
    """What a slice shows; of one that cannot be read, something unlike any other."""
    try:
        return modality_values(open_dicom(instance.found.path), instance.found.origin).tobytes()
    except DataError:
        return object()


def table_items(found: Scan, notes: Notes, key: SiteKey, skipped: list[Skipped]) -> Iterator[Item]:
    """The files that reports name, one item each; a file that rows of several patients name is left out.

    Args:
        found: everything the sources hold.
        notes: what reports say, with the files that they name.
        key: the site's key, which names the items.
        skipped: takes what is left out, with the reason.
    """
    named = [(report, study, found.file(report.file)) for report, study in notes.files]
    owners: dict[str, set[str]] = defaultdict(set)
    for _, study, file in named:
        if file is not None:
            owners[file.origin].add(notes.studies[study].patient)
    taken: set[str] = set()
    for report, study, file in named:
        if file is None:
            origin = f"{report.origin} ({Path(report.file).name})"
            skipped.append(Skipped(origin, "names a file that is not among the sources"))
            continue
        problem = ""
        if len(owners[file.origin]) > 1:
            problem = "names a file that is named for another patient, too"
        elif file.origin in taken:
            problem = "names a file that another row has named"
        if problem:
            skipped.append(Skipped(report.origin, problem))
            continue
        taken.add(file.origin)
        read = [file]
        if file.origin.lower().endswith(WFDB_HEADER):
            read += filter(None, (found.beside(file, name) for name in signal_files(file)))
        read = list({one.origin: one for one in read}.values())  # a header may name itself
        identity = "\0".join(f"{absolute(one.origin)}\0{_state(one)}" for one in read)
        name = key.pseudonym("item", identity)
        item = Item(name, tuple(read), notes.studies[study].patient, study, {}, _file_writer(file, found))
        yield item
        if is_dicom(file.path) and is_clip(open_dicom(file.path, pixels=False)):
            name = key.pseudonym("item", f"{identity}\0clip")
            yield replace(item, name=name, write=partial(write_clip, file), part=_CLIP)


def _state(file: Found) -> str:
    """Size and time of a file, which change with its content; "" if it is gone. For archives see `find_files`."""
    try:
        stat = file.path.stat()
    except OSError:
        return ""
    return f"{stat.st_size}\0{stat.st_mtime_ns}"


def _dicom_item(key: SiteKey, identity: str, instances: list[Instance], write: Writer) -> Item:
    states = "\0".join(_state(one.found) for one in instances)
    name = key.pseudonym("item", f"{identity}\0{states}")
    first = instances[0]
    return Item(name, tuple(one.found for one in instances), first.patient, first.study, first.facts, write)


def _object_writer(instance: Instance) -> Writer:
    if instance.kind == "waveform":
        return partial(write_dicom_waveform, instance.found)
    if instance.kind == "audio":
        return partial(write_dicom_audio, instance.found)
    return partial(write_image, instance.found, dicom=True)


def _file_writer(file: Found, found: Scan) -> Writer:
    name = file.origin.lower()
    if name.endswith(SOUNDS):
        return partial(write_audio, file)
    if name.endswith((".nii", ".nii.gz")):
        return partial(copy_nifti, file)
    if name.endswith(EDF):
        return partial(write_edf, file)
    if name.endswith(WFDB_HEADER):
        return partial(write_wfdb, file, partial(found.beside, file))
    return partial(write_image, file, dicom=is_dicom(file.path))
