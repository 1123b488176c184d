"""Whether explanations point at what was planted: films and notes of held-out patients of the generated hospitals.

One run without privacy and one at --epsilon are trained, each in a folder of its own below --out; one that is finished
is not trained again. The pointing game (Zhang et al. 2018, IJCV 126:1084) asks whether the place that did most to the
finding, as a film's explanation says, lies where the opacity is: where it replaces half as much air as at its densest,
or more. Beside it stands the best single place, the same on all films. Of a note it is asked whether the word that did
most is of a phrase that tells of the illness, beside how many of its words are.

Films and notes are those of held-out patients with a finding that shows on the film (strength 0.7 or more).
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mmmed.config import RunConfig, resolve
from mmmed.data.image import preprocess
from mmmed.data.loader import Records, open_site_data
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.source import locate
from mmmed.data.split import held_out
from mmmed.demo import HOSPITALS
from mmmed.demo.hospitals import Study, studies
from mmmed.inference import details
from mmmed.modalities.image import ImageData
from mmmed.modalities.text import TextData
from mmmed.models import load_model
from mmmed.paths import image_cache
from simulations.bench.measure import Row, parser, publish
from simulations.simulate import resume_run, start_run

_RUN = (  # films alone, of which a network learns most where all are in one place
    "data.text=", "federation.rounds=1", "training.local_epochs=8", "training.batch_size=64",
    "training.learning_rate=0.001", "training.augment=true", "training.seed=1", "federation.min_sites=1",
)  # fmt: skip
_PLAIN = 0.7  # strength of an opacity that is to be seen


def main(argv: list[str] | None = None) -> int:
    """Train where that is still to do, ask, and print how often explanations point at what was planted."""
    options = parser("explain", (__doc__ or "").splitlines()[0], repeats=None)
    options.add_argument(
        "--config",
        type=Path,
        help="TOML file of the runs, over the hospitals; without it, films alone of all patients in one place",
    )
    options.add_argument("--set", action="append", default=[], help="set one key: section.key=value")
    options.add_argument("--out", type=Path, default=Path("runs/explain"), help="folder of the runs")
    options.add_argument("--epsilon", type=float, default=8.0)
    options.add_argument("--films", type=int, default=100)
    chosen = options.parse_args(argv)
    assignments = [*(() if chosen.config else _RUN), *chosen.set]
    if chosen.config is None:
        source = locate(resolve(None, assignments).config.data.source)
        assignments.append(f"data.source={_in_one_place(source, chosen.out)}")
    made, found = planted(), []
    for name, own in (
        ("without privacy", {"privacy.enabled": False}),
        (f"epsilon {chosen.epsilon:g}", {"privacy.target_epsilon": chosen.epsilon}),
    ):
        config = resolve(chosen.config, assignments, own).config
        folder = chosen.out / name.replace(" ", "-")
        _train(config, folder)
        found.append({"model": name, **scored(folder, made, chosen.films)})
    publish("explanations that point at what was planted", found, chosen.json)
    return 0


def _in_one_place(source: Path, out: Path) -> Path:
    """A folder below `out` with the table of `source`, all of whose patients are of one site."""
    folder = out.absolute() / "in-one-place"
    if not folder.is_dir():
        shutil.copytree(source / "images", folder / "images")
    table = pd.read_csv(source / "data.csv", dtype=str, keep_default_na=False)
    table.assign(site="all").to_csv(folder / "data.csv", index=False)
    return folder


def _train(config: RunConfig, folder: Path) -> None:
    if not (folder / "config.toml").is_file():
        start_run(config, folder=folder, engine="inprocess", workers=0)
    elif not (folder / "evaluation.json").is_file():
        resume_run(folder, engine="inprocess", workers=0)


@dataclass(frozen=True)
class Asked:
    """One held-out record as a model reads it, and what only its maker knows."""

    record: Records
    study: Study


def planted() -> dict[str, Study]:
    """The generated studies with a finding that shows on the film, by their ids."""
    return {
        study.info.study_id: study
        for site, hospital in enumerate(HOSPITALS)
        for study in studies(hospital, site, seed=0, patients=hospital.patients)
        if study.finding and study.strength >= _PLAIN
    }


def scored(folder: Path, made: Mapping[str, Study], most: int) -> Row:
    """Pointing game and first words of a run's model over at most `most` films, those with a note among them."""
    model, config = load_model(folder / "model")
    root = locate(config.data.source)
    manifest = read_manifest(root, config.data, config.task)
    size, column = config.data.of(ImageData).image_size, config.data.of(TextData).text
    number = len(config.task.target().names) - 1
    hits, places, first, chance = [], [], [], []
    for asked in _asked(manifest, config, made, most):
        found = details(model, config, asked.record, {column: asked.study.text})
        place = preprocess(asked.study.place[None], size)[0]
        places.append(place >= place.max() / 2)
        heat = found["image"].map
        assert heat is not None
        hits.append(bool(places[-1].flat[int(heat[number].argmax())]))
        if "text" in found:
            read = found["text"].shares[number]
            telling = asked.study.telling[: len(read)]
            first.append(telling[int(np.abs(read).argmax())])
            chance.append(float(np.mean(telling)))
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    row: Row = {
        "AUROC within sites": told["auroc"]["within_site"]["value"],
        "films": len(hits),
        "pointing": float(np.mean(hits)),
        "best place": float(np.mean(places, axis=0).max()),
    }
    if first:
        row |= {
            "notes": len(first),
            "first word tells": float(np.mean(first)),
            "words that tell": float(np.mean(chance)),
        }
    return row


def _asked(manifest: Manifest, config: RunConfig, made: Mapping[str, Study], most: int) -> Iterator[Asked]:
    """Held-out records with a finding that shows, of all hospitals in turn."""
    found = defaultdict(list)
    for name in manifest.sites:  # one that holds all hospitals' patients, if it was trained in one place
        site = manifest.of_site(name)
        test = open_site_data(site, config, image_cache()).test
        names = site.records["study"][held_out(site, config.data, config.training.seed)]
        for row, study in enumerate(names):
            if study in made:
                record = replace(test, rows=test.rows[[row]], patient=test.patient[[row]])
                found[made[study].info.site].append(Asked(record, made[study]))
    waiting = list(found.values())
    turns = [
        one for turn in range(max(map(len, waiting))) for one in (w[turn] for w in waiting if turn < len(w))
    ]
    yield from turns[:most]
