"""The public functions: run a simulation, load the model that it trained, predict. On top, as `mmmed.cli` is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mmmed import __version__, models
from mmmed.config import RunConfig, resolve
from mmmed.data.loader import Records, load_records
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.source import locate
from mmmed.errors import DataError
from mmmed.extras import require
from mmmed.inference import cells_of, details, inputs, modalities_of, modality_shares, read_study
from mmmed.inference import predict as predict_records
from mmmed.inference.page import draw_page
from mmmed.inference.pictures import pairs, png, sheet
from mmmed.inference.prediction import Doubt, Prediction
from mmmed.inference.run_facts import RunFacts, read_report, run_facts
from mmmed.modalities import MODALITIES
from mmmed.modalities.columns import Files
from mmmed.models.store import weights_digest
from mmmed.paths import image_cache
from mmmed.reporting.told import Told, files_of, notes, source_of, statements
from mmmed.tasks import Text
from mmmed.tasks.base import Target
from mmmed.watch import Watch, known_of

if TYPE_CHECKING:
    from privacy.metrics import Calibration

LEVEL = 0.9  # of what is possible: of the patients of each answer, for how many it is among the possible


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: its run folder, with the final model (``model/``), the privacy report (``report/``) and all rounds.
        evaluation: how good the model is on held-out patients, as ``evaluation.json`` says it.
    """

    folder: Path
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        network: in evaluation mode.
        config: of the run that trained it.
        folder: what it was read from, a run folder or a model folder; None if from neither.
        watch: where its predictions are logged; None for nowhere.
    """

    network: models.MultimodalModel
    config: RunConfig
    folder: Path | None = None
    watch: Watch | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what may be given of a study: modalities, and columns of a table."""
        return tuple(inputs(self.config.data))

    @cached_property
    def facts(self) -> RunFacts:
        """Which run trained it, and how private that was. Read once."""
        return run_facts(self.folder, self.config)

    def about(self, **known: str) -> Model:
        """The same model, whose log takes down what is known of the study that is asked about next.

        Args:
            known: any of `mmmed.watch.KNOWN`: study and patient (ids, kept as pseudonyms), sex, age, site, scanner.

        Raises:
            DataError: another name, or the model logs nothing (see `load_model`).
        """
        if self.watch is None:
            raise DataError("this model logs nothing: load it with log=FOLDER, or give --log FOLDER")
        return replace(self, watch=self.watch.asking(**known))

    def predict(self, **given: str | Path) -> Prediction:
        """Predict one study, read as a record of training is.

        Args:
            given: any of `inputs`: paths of files, a note (or the Path of a text file), numbers and categories as text.

        Raises:
            DataError: see `mmmed.inference.read_study`.
        """
        study = read_study(self.config, given)
        target = self.config.task.target()
        return self._logged(study, predict_records(self.network, target, study)[0], given)

    def explain(self, **given: str | Path) -> Prediction:
        """`predict`, with what each modality did to it, and within each its places, words, columns or times.

        It asks the model 2^M times about M modalities, and once for each part: some 60 of a film, 200 of a volume, one
        a word of a note.

        Raises:
            DataError: see `predict`; or the task's answer is a text, which is no sum of parts.
        """
        if isinstance(self.config.task, Text):
            raise DataError(
                f"task {self.config.task.kind!r} answers with a text, of which no modality has a share: ask without "
                "explain, and again without a modality to see what it did"
            )
        study, target = read_study(self.config, given), self.config.task.target()
        found = modality_shares(self.network, target, study)
        shares, without = (
            {m: _named(target.names, one) for m, one in part.items()}
            for part in (found.shares, found.without)
        )
        return self._logged(study, found.prediction, given)._replace(
            shares=shares,
            without=without,
            nothing=_named(target.names, found.nothing),
            details=details(self.network, self.config, study, cells_of(self.config, given)),
        )

    @cached_property
    def calibration(self) -> Calibration | str:
        """What the results that hospitals released say of the model's probabilities; in words, why they say nothing.

        Only noised counts in the run's privacy report are used: to look at them costs no privacy. Read once.
        """
        from privacy.metrics import calibrate
        from privacy.report.evaluations import Pooled

        release = self.config.task.release
        if release is None or release.kind != "tables":
            return "what hospitals release of this task are no counts by probability"
        report = read_report(self.folder) if self.folder is not None else {}
        try:
            pooled, std = Pooled.from_json(report["run"]["pooled"]), float(report["results"]["noise_std"])
        except (KeyError, TypeError, ValueError):
            return "its folder holds no results that hospitals released with noise of their held-out patients"
        if pooled.kind != "tables" or len(pooled.tables) != release.size:
            return "the results in its privacy report are of another task"
        return calibrate(pooled.tables, std)

    def _logged(self, study: Records, numbers: np.ndarray, given: Mapping[str, str | Path]) -> Prediction:
        """`prediction` of the one record of a study, taken down where there is a log."""
        if self.watch is not None:
            self.watch.record(study, given, numbers)
        return self.prediction(modalities_of(study), numbers)

    def prediction(self, read: tuple[str, ...], numbers: np.ndarray) -> Prediction:
        """Numbers (K,) of a study of which these modalities were read, and how far they can be taken at their word."""
        target = self.config.task.target()
        missing = tuple(name for name in self.config.data.modalities if name not in read)
        values = {name: one.tolist()[0] for name, one in target.as_table(numbers[None]).items()}
        if isinstance(self.config.task, Text):
            doubt = Doubt(told="Written by a model: check it.")
        else:
            doubt = _doubt(self.calibration, target, numbers)
        return Prediction(values, read, missing, doubt=doubt)

    def told(self, found: Prediction, files: Iterable[Path], patient: str = "") -> Told:
        """A prediction to be reported, by `mmmed.reporting`.

        Args:
            found: as `predict` gives it.
            files: that were read; the report refers to the first DICOM object among them.
            patient: their identifier, for where that object has none.

        Raises:
            DataError: a number is not finite.
        """
        target = self.config.task.target()
        name = self.folder.resolve().name if self.folder is not None else "model"
        said = notes(found, self.facts.in_words)
        return Told(name, __version__, statements(found, target), said, source_of(files), patient)

    def structured_report(self, found: Prediction, **given: str | Path) -> bytes:
        """What `predict` said of what was given, as a DICOM file: TID 1500, in the study of the image. Extra `reports`.

        Raises:
            DataError: no DICOM image was given, or the answer is a text.
        """
        require("reports", "a DICOM SR")
        from mmmed.reporting.structured import structured_report

        return structured_report(self.told(found, files_of(given, self.config.data)))

    def diagnostic_report(self, found: Prediction, **given: str | Path) -> str:
        """What `predict` said of what was given, as FHIR R4 DiagnosticReport in JSON. Extra `reports`."""
        require("reports", "a FHIR report")
        from mmmed.reporting.fhir import diagnostic_report

        return diagnostic_report(self.told(found, files_of(given, self.config.data)))

    def page(self, found: Prediction, of: str = "") -> str:
        """An explanation as one HTML page that needs no network; it holds what was given of the patient.

        Args:
            found: as `explain` gives it.
            of: the name of the number that is explained, see `number`.

        Raises:
            DataError: the task has no such number, or `found` explains nothing.
        """
        if not found.shares:
            raise DataError("a page shows an explanation: take what Model.explain gives")
        number, target = self.number(found, of), self.config.task.target()
        return draw_page(found, target, number, [*_said(found.doubt, target, number), self.facts.in_words])

    def picture(self, found: Prediction, of: str = "") -> bytes:
        """A PNG of the images and volumes of an explanation, each plain and with what each place did.

        Raises:
            DataError: the task has no number `of`, or nothing of a picture was explained.
        """
        number = self.number(found, of)
        drawn = [pair for detail in found.details.values() for pair in pairs(detail, number)]
        if not drawn:
            raise DataError(
                "there is no picture to draw: no image or volume was given, or nothing was explained"
            )
        return png(sheet(drawn))

    def number(self, found: Prediction, of: str = "") -> int:
        """Which of the numbers of a prediction is explained: `of`, or by default the task's `answer`.

        Raises:
            DataError: the task has no such number.
        """
        names = list(found.values)
        if of and of not in names:
            raise DataError(f"the model gives no number {of!r}. It gives: {', '.join(names)}")
        values = np.array(list(found.values.values()))
        return names.index(of) if of else self.config.task.target().answer(values)


def _named(names: Sequence[str], numbers: np.ndarray) -> dict[str, float]:
    return dict(zip(names, numbers.tolist(), strict=True))


def _said(doubt: Doubt, target: Target, number: int) -> list[str]:
    """In sentences, of one number of a prediction."""
    lines = [doubt.told]
    if doubt.calibrated:
        name = target.names[number]
        ends = [target.shown(number, end) for end in doubt.intervals.get(name, ())]
        reach = f" (95 % interval of the correction: {' to '.join(ends)})" if ends else ""
        lines.insert(0, f"Calibrated, {target.said(number, doubt.calibrated[name])}{reach}.")
    if doubt.possible:
        lines.append(f"Cannot be ruled out at {doubt.level:.0%}: {', '.join(doubt.possible)}.")
    return lines


def _doubt(calibration: Calibration | str, target: Target, numbers: np.ndarray) -> Doubt:
    if isinstance(calibration, str):
        return Doubt(told=f"Not calibrated: {calibration}.")
    score = target.evidence(numbers[None], target.made_up(1).numpy())[0][0]
    value, low, high = calibration.corrected(score)
    names = target.names
    intervals: dict[str, tuple[float, float]] = {}
    if len(score) == len(names):
        intervals = {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
    elif len(names) == 2:
        intervals = {
            names[0]: (float(1 - high[0]), float(1 - low[0])),
            names[1]: (float(low[0]), float(high[0])),
        }
    each = 1 - (1 - LEVEL) / target.together
    return Doubt(
        _named(names, target.corrected(numbers, value)),
        intervals,
        target.possible(calibration.possible(score, each)),
        LEVEL,
        f"Calibrated by the noised results of about {calibration.patients:.0f} held-out patients of the run's "
        f"hospitals (temperature {calibration.temperature:.2f}). It holds for patients like those.",
    )


def simulate(
    config: RunConfig | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    engine: str = "inprocess",
    workers: int = 0,
    scenario: str | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Train across simulated hospitals on this machine, as ``mmmed simulate`` does; it prints the same.

    Args:
        config: the whole configuration, or a TOML file of it; the defaults if None.
        folder: the run's new folder; by default ``runs/`` and date and time.
        engine: "inprocess", or "ray" for Flower's own simulation engine.
        workers: processes that train sites. With 0 this one trains them. Others import the program that started
            them, which must then do its work under ``if __name__ == "__main__":``.
        scenario: how patients are dealt to sites and how these behave: a name of ``mmmed simulate scenarios``, or a
            TOML file; None for the sites of the data.
        sections: keys to set by section, over what the file says: ``privacy={"target_epsilon": 4}``.

    Raises:
        TypeError: sections are given with a `RunConfig`, which is complete already.
        MmmedError, PrivacyError: something of the configuration, the data or the plan cannot work; before anything
            was written.
    """
    from simulations.scenarios import read_scenario
    from simulations.simulate import start_run

    chosen = None if scenario is None else read_scenario(scenario)
    if not isinstance(config, RunConfig):
        config = resolve(_path(config), options=sections, origin="mmmed.simulate").config
    elif sections:
        raise TypeError(f"a RunConfig is whole: give a file or nothing beside {', '.join(sections)}")
    path = start_run(config, folder=_path(folder), engine=engine, workers=workers, scenario=chosen)
    return Run(path, json.loads((path / "evaluation.json").read_text(encoding="utf-8")))


def load_model(folder: str | Path, *, log: str | Path | None = None) -> Model:
    """Read the final model of a run folder, or a model folder.

    Args:
        folder: of the run, or of the model.
        log: folder in which each of its predictions is logged, to be watched (``mmmed watch``); None for no log.

    Raises:
        ModelError: a file is missing, damaged, or the two do not belong together.
        DataError: the log's folder cannot have one.
    """
    folder = Path(folder)
    network, config = models.load_model(folder)
    watch = None if log is None else Watch.of(log, weights_digest(folder), config)
    return Model(network, config, folder, watch)


def predict(model: Model, data: str | Path) -> pd.DataFrame:
    """Predictions of every record of a data set that has the columns of the model's configuration, logged if it logs.

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
    manifest = _asked(model, data)
    return _table(model, manifest, _predicted(model, manifest))


class Predicted(NamedTuple):
    """One record of a data set and what a model says of it.

    Attributes:
        row: its place in the table, from 0.
        patient: whose it is, as the table names them.
        files: that were read of it.
        prediction: of the model.
    """

    row: int
    patient: str
    files: tuple[Path, ...]
    prediction: Prediction


def predict_each(model: Model, data: str | Path) -> tuple[pd.DataFrame, Iterator[Predicted]]:
    """What `predict` gives, and each record with its prediction and how far that can be taken at its word."""
    manifest = _asked(model, data)
    parts = list(_predicted(model, manifest))
    return _table(model, manifest, parts), (one for part in parts for one in _each(model, *part))


_Part = tuple[Manifest, Records, np.ndarray]


def _asked(model: Model, data: str | Path) -> Manifest:
    """All records of a data set, also those that training would leave out of a fold."""
    data_config = model.config.data.model_copy(update={"fold": ""})
    return read_manifest(locate(str(data)), data_config, task=None, problem=_warn)


def _predicted(model: Model, manifest: Manifest) -> Iterator[_Part]:
    """By site: its records, and the numbers (N, K) that are predicted."""
    target = model.config.task.target()
    for name in manifest.sites:
        site = manifest.of_site(name)
        records = load_records(site, model.config, image_cache())
        predicted = predict_records(model.network, target, records)
        if model.watch is not None:
            about = known_of(site.records, site.root, model.config.data)
            model.watch.record_all(records, about, predicted)
        yield site, records, predicted


def _table(model: Model, manifest: Manifest, parts: Iterable[_Part]) -> pd.DataFrame:
    target, named = model.config.task.target(), ["row", "site", "patient", "study"]
    nobody = target.as_table(np.zeros((0, len(target.names))))
    tables = [site.records.loc[:, named].assign(**target.as_table(numbers)) for site, _, numbers in parts]
    none = manifest.records.loc[:, named].iloc[:0].assign(**nobody)
    return pd.concat(tables or [none], ignore_index=True)


def _each(model: Model, site: Manifest, records: Records, numbers: np.ndarray) -> Iterator[Predicted]:
    modalities = (MODALITIES[name] for name in records.modalities)
    fields = [
        field for one in modalities if isinstance(one, Files) for field in one.fields(model.config.data)
    ]
    for number, row in enumerate(site.records.to_dict("records")):
        read = tuple(name for name, one in records.modalities.items() if bool(one.present[number].any()))
        files = tuple(site.root / str(row[field]) for field in fields if row[field])
        found = model.prediction(read, numbers[number])
        yield Predicted(int(row["row"]), str(row["patient"]), files, found)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _warn(problem: str) -> None:
    warnings.warn(problem, stacklevel=3)
