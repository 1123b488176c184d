"""The public functions: run a simulation, load the model that it trained, predict. On top, as `mmmed.cli` is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mmmed import models
from mmmed.config import RunConfig, resolve
from mmmed.data.loader import load_records
from mmmed.data.manifest import read_manifest
from mmmed.data.source import locate
from mmmed.errors import DataError
from mmmed.inference import inputs, modalities_of, modality_shares, read_study
from mmmed.inference import predict as predict_records
from mmmed.paths import image_cache
from mmmed.tasks import Text


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: its run folder, with the final model (``model/``), the privacy report (``report/``) and all rounds.
        evaluation: how good the model is on held-out patients, as ``evaluation.json`` says it.
    """

    folder: Path
    evaluation: dict[str, Any]


class Prediction(NamedTuple):
    """What a model says of one study.

    Attributes:
        values: each number of the task by its name, such as a class's probability; as the model gives it, uncalibrated.
            Of a task of text, the text by the name of its column.
        read: modalities of the study that it was made from.
        missing: those that the model could have read.
        shares: what each of `read` added to each of `values`, beginning from `nothing` (`mmmed.inference.Shares`); by
            modality, then by name. Empty if it was not asked for.
        without: `values` without each of `read` alone, in the same way.
        nothing: `values` where nothing is known.
    """

    values: dict[str, float | str]
    read: tuple[str, ...]
    missing: tuple[str, ...]
    shares: dict[str, dict[str, float]] = {}
    without: dict[str, dict[str, float]] = {}
    nothing: dict[str, float] = {}


class Model(NamedTuple):
    """A trained model, in evaluation mode, and the configuration of the run that trained it."""

    network: models.MultimodalModel
    config: RunConfig

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what may be given of a study: modalities, and columns of a table."""
        return tuple(inputs(self.config.data))

    def predict(self, **given: str | Path) -> Prediction:
        """Predict one study, read as a record of training is.

        Args:
            given: any of `inputs`: paths of files, a note (or the Path of a text file), numbers and categories as text.

        Raises:
            DataError: see `mmmed.inference.read_study`.
        """
        return self._ask(given, explain=False)

    def explain(self, **given: str | Path) -> Prediction:
        """`predict`, with what each modality did to it: 2^M predictions for M of them.

        Raises:
            DataError: see `predict`; or the task's answer is a text, which is no sum of parts.
        """
        if isinstance(self.config.task, Text):
            raise DataError(
                f"task {self.config.task.kind!r} answers with a text, of which no modality has a share: ask without "
                "explain, and again without a modality to see what it did"
            )
        return self._ask(given, explain=True)

    def _ask(self, given: Mapping[str, str | Path], explain: bool) -> Prediction:
        study, target = read_study(self.config, given), self.config.task.target()

        def named(numbers: np.ndarray) -> dict[str, Any]:
            return {name: one.tolist()[0] for name, one in target.shown(numbers[None]).items()}

        read = modalities_of(study)
        missing = tuple(name for name in study.modalities if name not in read)
        if not explain:
            return Prediction(named(predict_records(self.network, target, study)[0]), read, missing)
        found = modality_shares(self.network, target, study)
        shares, without = (
            {m: named(one) for m, one in part.items()} for part in (found.shares, found.without)
        )
        return Prediction(named(found.prediction), read, missing, shares, without, named(found.nothing))


def simulate(
    config: RunConfig | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    engine: str = "inprocess",
    workers: int = 0,
    **sections: Mapping[str, Any],
) -> Run:
    """Train across simulated hospitals on this machine, as ``mmmed simulate`` does; it prints the same.

    Args:
        config: the whole configuration, or a TOML file of it; the defaults if None.
        folder: the run's new folder; by default ``runs/`` and date and time.
        engine: "inprocess", or "ray" for Flower's own simulation engine.
        workers: processes that train sites. With 0 this one trains them. Others import the program that started
            them, which must then do its work under ``if __name__ == "__main__":``.
        sections: keys to set by section, over what the file says: ``privacy={"target_epsilon": 4}``.

    Raises:
        TypeError: sections are given with a `RunConfig`, which is complete already.
        MmmedError, PrivacyError: something of the configuration, the data or the plan cannot work; before anything
            was written.
    """
    from simulations.simulate import start_run

    if not isinstance(config, RunConfig):
        config = resolve(_path(config), options=sections, origin="mmmed.simulate").config
    elif sections:
        raise TypeError(f"a RunConfig is whole: give a file or nothing beside {', '.join(sections)}")
    path = start_run(config, folder=_path(folder), engine=engine, workers=workers)
    return Run(path, json.loads((path / "evaluation.json").read_text(encoding="utf-8")))


def load_model(folder: str | Path) -> Model:
    """Read the final model of a run folder, or a model folder.

    Raises:
        ModelError: a file is missing, damaged, or the two do not belong together.
    """
    folder = Path(folder)
    return Model(*models.load_model(folder / "model" if (folder / "model").is_dir() else folder))


def predict(model: Model, data: str | Path) -> pd.DataFrame:
    """Predictions of every record of a data set that has the columns of the model's configuration.

    Of the hospitals that it was trained on, a model knows the training patients: how good it is say `Run.evaluation`
    and ``mmmed evaluate``, from held-out patients alone. What is wrong with a row is a warning, and the row is left
    out, or has the value missing. No label is needed.

    Args:
        model: as `load_model` gives it; it is not changed.
        data: folder with the table of studies, or "demo" for the generated hospitals.

    Returns:
        A row a record, by site: columns ``row`` (its place in the table, from 0), ``site``, ``patient``, ``study``,
        and a float64 column of each number that the task predicts, such as a class's probability, by its name;
        of a task of text one column, the text.

    Raises:
        DataError: no such folder, or a table or column is missing.
    """
    network, config = model
    data_config = config.data.model_copy(update={"fold": ""})
    manifest = read_manifest(locate(str(data)), data_config, task=None, problem=_warn)
    named = ["row", "site", "patient", "study"]
    target = config.task.target()
    nobody = target.shown(np.zeros((0, len(target.names))))
    parts = [manifest.records.loc[:, named].iloc[:0].assign(**nobody)]
    for name in manifest.sites:
        site = manifest.of_site(name)
        records = load_records(site, config, image_cache())
        predicted = predict_records(network, target, records)
        parts.append(site.records.loc[:, named].assign(**target.shown(predicted)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _warn(problem: str) -> None:
    warnings.warn(problem, stacklevel=3)
