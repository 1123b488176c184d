"""A scenario made true: the table that its sites share, and what each simulated site is told of itself.

The table is an ordinary one, read as any other. It holds the records that the run would use, with other sites, cells
that were emptied, and flipped labels of training patients; who is held out stays, and keeps the true labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from client.simulated import simulated_manifest
from mmmed.config import RunConfig
from mmmed.config.schema import Scalar
from mmmed.data.manifest import Manifest, read_table, table_file
from mmmed.data.split import held_out
from mmmed.errors import ConfigError
from mmmed.modalities import MODALITIES
from simulations.scenarios import Scenario, read_scenario
from simulations.scenarios.deal import deal, even_labels

FILE = "scenario.toml"  # in the run folder, beside the table
_TABLES = ("scenario.csv", "scenario.parquet")
ABSENT, MALICE, STRENGTH = "absent", "malice", "strength"  # of a node's configuration


@contextlib.contextmanager
def dealt(scenario: Scenario | None, config: RunConfig) -> Iterator[Path | None]:
    """The scenario's table in a folder that goes when the block ends; None if sites have the run's own.

    Raises:
        ConfigError: the scenario does not suit the data; the site, modality or key is named.
        DataError: as `mmmed.data.manifest.read_manifest`.
    """
    if scenario is None:
        yield None
        return
    frame, suffix = scenario_table(scenario, config)
    if not scenario.changes_data:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mmmed-scenario-") as folder:
        path = Path(folder) / f"scenario{suffix}"
        if suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False)
        yield path


def kept_files(scenario: Scenario | None, table: Path | None) -> dict[str, bytes]:
    """Name and content of what a run folder keeps of a scenario: itself, and its table if it has one of its own."""
    if scenario is None:
        return {}
    own = {} if table is None else {table.name: table.read_bytes()}
    return {**own, FILE: scenario.to_toml().encode()}


def kept_scenario(folder: Path) -> Scenario | None:
    """The scenario of a run; None if it has none.

    Raises:
        ConfigError: the file was damaged.
    """
    return read_scenario(str(folder / FILE)) if (folder / FILE).is_file() else None


def kept_table(folder: Path) -> Path | None:
    """The table that a run's sites share, if it is not the data set's own."""
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)


def with_table(config: RunConfig, table: Path | None) -> RunConfig:
    """The configuration of a run whose sites share this table, to read it by; itself if they have the run's own."""
    if table is None:
        return config
    data = config.data.model_copy(update={"table": str(table.absolute())})
    return config.model_copy(update={"data": data})


def scenario_table(scenario: Scenario, config: RunConfig) -> tuple[pd.DataFrame, str]:
    """The table, and the ending of the file that it came from: .csv or .parquet.

    Raises:
        ConfigError: the scenario does not suit the data or the run.
        DataError: as `mmmed.data.manifest.read_manifest`.
    """
    manifest = simulated_manifest(config)
    path = table_file(manifest.root, config.data)
    records = manifest.records.assign(site=_sites(manifest, scenario, config))
    records = records[records["site"] != ""]
    _check(scenario, config, sorted(records["site"].unique()))
    frame = read_table(path).loc[records["row"]].assign(**{config.data.site: records["site"].to_numpy()})
    frame = _emptied(frame, records, scenario, config)
    frame = _flipped(frame, manifest, records, scenario, config)
    return frame, ".parquet" if path.suffix.lower() == ".parquet" else ".csv"


def _sites(manifest: Manifest, scenario: Scenario, config: RunConfig) -> np.ndarray:
    """(N,) str, each record's site; "" for one that is left out."""
    records, seed = manifest.records, config.training.seed
    if scenario.split == "natural" and not scenario.same_labels:
        return records["site"].to_numpy()
    patient, of_record = np.unique(records["patient"].to_numpy().astype(str), return_inverse=True)
    kinds = patient_kinds(manifest.labels, of_record, config)
    if scenario.split == "natural":
        names, site = np.unique(records["site"].to_numpy().astype(str), return_inverse=True)
        own = np.zeros(len(patient), dtype=np.int64)
        own[of_record] = site
        kept = even_labels(kinds, own, seed)
        return np.where(kept[of_record], names[site], "")
    numbers = deal(kinds, scenario, seed)
    digits = len(str(scenario.sites))
    return np.array([f"site-{number + 1:0{digits}d}" for number in numbers])[of_record]


def patient_kinds(labels: np.ndarray, of_record: np.ndarray, config: RunConfig) -> np.ndarray:
    """(P,) int, the kind of each patient's labels, from 0: which of the task's groups any record of the patient is in.

    Args:
        labels: (N,) or (N, L), as `Manifest.labels`.
        of_record: (N,) int, the patient of each record, from 0.
        config: names the task.
    """
    members = config.task.target().members(labels)
    any_record = np.zeros((int(of_record.max()) + 1, members.shape[1]), dtype=bool)
    np.logical_or.at(any_record, of_record, members)
    return np.unique(any_record, axis=0, return_inverse=True)[1].reshape(-1)


def _check(scenario: Scenario, config: RunConfig, sites: list[str]) -> None:
    if unknown := sorted(set(scenario.named) - set(sites)):
        raise ConfigError(f"scenario: there is no site {unknown[0]!r}. The sites are {', '.join(sites)}")
    for one in scenario.missing:
        if one.modality not in config.data.modalities:
            raise ConfigError(
                f"scenario: missing modality {one.modality!r}: the run learns from {', '.join(config.data.modalities)}"
            )
    sends = [one.kind for one in scenario.malicious if one.changes_update]
    if sends and config.federation.release == "secure-steps":
        raise ConfigError(
            f"scenario: malicious {sends[0]!r} changes an update, and federation.release = 'secure-steps' sends masked "
            "ones, which any change turns into noise. Use label-flip, or another release"
        )


def _emptied(
    frame: pd.DataFrame, records: pd.DataFrame, scenario: Scenario, config: RunConfig
) -> pd.DataFrame:
    """Without what is missing; a record keeps the last modality that it has."""
    names = config.data.modalities
    has = {name: MODALITIES[name].has(records, config.data).to_numpy() for name in names}
    for one in scenario.missing:
        there = np.isin(records["site"], one.sites) if one.sites else np.ones(len(records), dtype=bool)
        keys = records["patient"] + "\0" + records["study"] + "\0" + records["row"].astype(str)
        lots = keys.map(lambda key: chance(config.training.seed, one.modality, key)).to_numpy()  # noqa: B023
        others = np.any(
            [has[name] for name in names if name != one.modality] or [has[one.modality] & False], axis=0
        )
        gone = there & (lots < one.share) & others
        has[one.modality] = has[one.modality] & ~gone
        for column in MODALITIES[one.modality].columns(config.data):
            frame = frame.assign(**{column: frame[column].mask(gone)})
    return frame


def _flipped(
    frame: pd.DataFrame, manifest: Manifest, records: pd.DataFrame, scenario: Scenario, config: RunConfig
) -> pd.DataFrame:
    """With flipped labels of the training patients of sites that do so."""
    sites = [name for one in scenario.malicious if not one.changes_update for name in one.sites]
    if not sites:
        return frame
    training = ~held_out(manifest, config.data, config.training.seed)[records.index]
    rows = training & np.isin(records["site"], sites)
    for column in dict.fromkeys(config.task.columns.values()):
        other = _other_end(frame[column])
        frame = frame.assign(**{column: frame[column].mask(rows, frame[column].map(other))})
    return frame


def _other_end(cells: pd.Series) -> dict[object, object]:
    """Each value of a column and the one that stands as far from the other end of their order."""
    values = list(cells.dropna().unique())
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce")
    order = sorted(
        range(len(values)), key=lambda i: (numbers[i] if numbers.notna().all() else 0, str(values[i]))
    )
    return {values[one]: values[other] for one, other in zip(order, reversed(order), strict=True)}


def node_settings(
    scenario: Scenario | None, site: str, table: Path | None, config: RunConfig
) -> dict[str, Scalar]:
    """What a scenario adds to a simulated site's own configuration."""
    settings: dict[str, Scalar] = {} if table is None else {"table": str(table.absolute())}
    if scenario is None:
        return settings
    if rounds := absent_rounds(scenario, site, config.federation.rounds, config.training.seed):
        settings[ABSENT] = json.dumps(rounds)
    for one in scenario.malicious:
        if site in one.sites and one.changes_update:
            settings |= {MALICE: one.kind, STRENGTH: one.strength}
    return settings


def absent_rounds(scenario: Scenario, site: str, rounds: int, seed: int) -> list[int]:
    """The rounds, from 1, in which a site does not answer."""
    first, gone = scenario.join.get(site, 1), scenario.drop.get(site, rounds + 1)
    return [
        number
        for number in range(1, rounds + 1)
        if not first <= number < gone or chance(seed, site, str(number)) < scenario.unreachable
    ]


def chance(seed: int, *about: str) -> float:
    """A number in [0, 1) that depends on the seed and on these texts alone."""
    digest = hashlib.sha256("\0".join((str(seed), *about)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
