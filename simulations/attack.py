"""`mmmed privacy attack`: train shadow models as the run trained its own, and attack the released one with them.

Only whoever holds all records can run it: on generated or public data, or at the site whose data they are. Every
shadow model holds out as many patients of each site as the run did, others each time, so its mechanism is the same.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmmed.config import RunConfig
from mmmed.data.loader import Records, open_site_data
from mmmed.data.manifest import Manifest, read_manifest, read_table, table_file
from mmmed.data.source import locate
from mmmed.data.split import held_out
from mmmed.errors import RunError
from mmmed.inference.predict import predict
from mmmed.models import load_model
from mmmed.paths import image_cache
from privacy.accounting import trade_off
from privacy.attack import AttackResult, judge, membership_scores
from privacy.report import read_statement
from server.privacy_report import signed_statements
from server.run_folder import RunFolder
from simulations.scenarios.table import kept_table, with_table
from simulations.trial import run_trial

_FOLD = "attack_fold"  # column of a shadow model's table: 1 holds the patient out


@dataclass(frozen=True)
class _Site:
    """A site's patients, those who took part in the run first, and their records in the same order."""

    patients: np.ndarray
    members: int
    records: tuple[Records, Records]


def attack_run(
    path: Path, *, shadows: int, workers: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> AttackResult:
    """Attack a run's final model.

    Args:
        path: the run folder.
        shadows: shadow models to train; each costs what the run did.
        workers: processes that train sites.
        progress: called with (shadow models trained, all shadow models).

    Raises:
        RunError: the run has no final model, or held out nobody.
        DataError: the run's data are not there any more.
    """
    with RunFolder.open(path) as run:
        bound = _bound(run)
    if not (path / "model").is_dir():
        raise RunError(f"{path}: the run has no final model yet. Finish it with --resume {path}")
    _, config = load_model(path / "model")
    config = with_table(config, kept_table(path))
    manifest = read_manifest(locate(config.data.source), config.data, config.task)
    sites = [_site(manifest.of_site(name), config) for name in manifest.sites]
    member = np.concatenate([np.arange(len(site.patients)) < site.members for site in sites])
    if member.all():
        raise RunError(f"{path}: the run held no patient out, so there is nobody to tell its patients from")
    fewest = max(
        math.ceil(len(s.patients) / min(len(s.patients) - s.members, s.members))
        for s in sites
        if 0 < s.members < len(s.patients)
    )
    if shadows < fewest:
        raise RunError(
            f"--shadows {shadows}: with so few models some patient is held out of none or of all. Train at least "
            f"{fewest}"
        )
    held = np.concatenate([_held_out_by(site, shadows) for site in sites], axis=1)
    found = np.zeros(held.shape)
    for number, out in enumerate(held):
        progress(number, shadows)
        with tempfile.TemporaryDirectory(prefix="mmmed-attack-") as folder:
            found[number] = _train_shadow(config, manifest.root, sites, out, Path(folder), workers)
    progress(shadows, shadows)
    score = membership_scores(_confidences(path / "model", sites), found, ~held)
    return judge(score, member, bound, shadows)


def _bound(run: RunFolder) -> Callable[[float], float]:
    """The highest true-positive rate at a false-positive rate, for the worst of the sites that stated a plan."""
    if not run.config.privacy.enabled:
        return lambda rate: 1.0
    curves = [trade_off([read_statement(value).mechanism]) for value in signed_statements(run).values()]
    return lambda rate: max((curve.true_positive_rate(rate) for curve in curves), default=1.0)


def _site(manifest: Manifest, config: RunConfig) -> _Site:
    data = open_site_data(manifest, config, image_cache())
    out = held_out(manifest, config.data, config.training.seed)
    names = manifest.records["patient"].to_numpy().astype(str)
    inside, outside = np.unique(names[~out]), np.unique(names[out])
    return _Site(np.concatenate([inside, outside]), len(inside), (data.train, data.test))


def _held_out_by(site: _Site, shadows: int) -> np.ndarray:
    """Bool [shadows, patients]: who is held out of each, in turn, so that nobody is held out much more often."""
    count, size = len(site.patients) - site.members, len(site.patients)
    order = np.random.default_rng(0).permutation(size)  # public: it protects nobody
    held = np.zeros((shadows, size), dtype=bool)
    for number, row in enumerate(held):
        row[order[(number * count + np.arange(count)) % size]] = True
    return held


def _train_shadow(
    config: RunConfig, root: Path, sites: list[_Site], out: np.ndarray, folder: Path, workers: int
) -> np.ndarray:
    """Confidences [patients] of a model trained with the patients `out` (bool [patients]) held out."""
    frame = read_table(table_file(root, config.data))
    names = np.concatenate([site.patients for site in sites])
    folds = dict(zip(names, out.astype(int), strict=True))
    frame[_FOLD] = [folds.get(str(name).strip(), 0) for name in frame[config.data.patient]]
    frame.to_parquet(folder / "shadow.parquet")
    changed = {"table": str((folder / "shadow.parquet").resolve()), "fold": _FOLD, "test_fold": 1}
    shadow = config.model_copy(update={"data": config.data.model_copy(update=changed)})
    model, _ = run_trial(shadow, folder / "run", workers)
    return _confidences(model, sites)


def _confidences(model_folder: Path, sites: list[_Site]) -> np.ndarray:
    """How well a model predicts each patient's own labels, the mean over records: float64 [patients]."""
    model, config = load_model(model_folder)
    target, parts = config.task.target(), []
    for site in sites:
        for records in site.records:
            if records.patients == 0:
                continue
            confidence = target.confidences(predict(model, target, records), records.labels)
            total = np.bincount(records.patient, confidence, records.patients)
            parts.append(total / np.bincount(records.patient, minlength=records.patients))
    return np.concatenate(parts)
