"""How hard the generated hospitals are: ``python -m simulations.difficulty [--json FILE]``.

Not private, all sites pooled, patient-wise cross-validation: every record is scored by learners that never
saw its patient. Each modality is read by learners of its own and by the networks that mmmed trains.
docs/demo-data.md holds the table and says what to read from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from torch.nn import functional

from mmmed import demo
from mmmed.config import DataConfig, RunConfig, TrainingConfig
from mmmed.data.batch import Batch, Input
from mmmed.data.image import preprocess, read_image
from mmmed.inference import Evaluation, Predictions, evaluate
from mmmed.models import build_model, load_tokenizer
from mmmed.tasks import Classification
from mmmed.training import make_optimizer

TARGET = Classification().target()
FOLDS = 4
EPOCHS = 6
_SIZE, _TOKENS, _BATCH, _RESAMPLES = 64, 64, 32, 300
_UNREAD = 0.3  # share of tokens hidden while training: few notes are soon learnt by heart


@dataclass(frozen=True)
class Studies:
    """All N records: ``table`` as read, the records as one batch, and the (N,) fold that tests each."""

    table: pd.DataFrame
    records: Batch
    fold: np.ndarray

    @property
    def label(self) -> np.ndarray:
        """(N,) int64, the finding of each record."""
        return self.table["finding"].to_numpy()

    @property
    def has_text(self) -> np.ndarray:
        """(N,) bool, whether each record has a note."""
        return (self.table["text"] != "").to_numpy()

    def splits(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers to train on and to test on, fold by fold."""
        for fold in np.unique(self.fold):
            yield np.flatnonzero(self.fold != fold), np.flatnonzero(self.fold == fold)


def read_studies(folder: Path) -> Studies:
    """Read a generated dataset whole, films at 64 x 64 pixels, notes at 64 tokens."""
    table = pd.read_csv(folder / "data.csv", keep_default_na=False)
    images = np.stack([preprocess(read_image(folder / name, channels=1), _SIZE) for name in table["image"]])
    tokens = load_tokenizer("tiny")(
        list(table["text"]), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
    )
    written = torch.tensor((table["text"] != "").to_numpy())[:, None]
    records = Batch(
        inputs={
            "image": Input(torch.from_numpy(images), torch.ones(len(table), 1, dtype=torch.bool)),
            "text": Input(tokens["input_ids"], tokens["attention_mask"].bool() & written),
        },
        label=torch.tensor(table["finding"].to_numpy()),
        unit=torch.arange(len(table)),
    )
    fold = np.zeros(len(table), dtype=np.int64)
    stratum = table["site"] + table["finding"].astype(str)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for number, (_, test) in enumerate(folds.split(table, stratum, table["patient_id"])):
        fold[test] = number
    return Studies(table, records, fold)


def score_site(studies: Studies) -> np.ndarray:
    """(N,) share of findings among the site's other folds: all that the name of the site tells."""
    score = np.zeros(len(studies.table))
    for train, test in studies.splits():
        shares = studies.table.iloc[train].groupby("site")["finding"].mean()
        score[test] = studies.table["site"].iloc[test].map(shares)
    return score


def score_words(studies: Studies) -> np.ndarray:
    """(N,) log-odds by TF-IDF of words and word pairs and a logistic regression.

    Learnt from records with notes; those without are scored by the empty note, a constant.
    """
    text, label = studies.table["text"].to_numpy(), studies.label
    score = np.zeros(len(text))
    for train, test in studies.splits():
        train = train[studies.has_text[train]]
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
        learner = make_pipeline(words, LogisticRegression(C=3.0, max_iter=1000))
        score[test] = learner.fit(text[train], label[train]).decision_function(text[test])
    return score


def score_network(studies: Studies, *, image: bool, text: bool, epochs: int) -> np.ndarray:
    """(N,) log-odds by the default model on one modality or both, trained without privacy.

    Args:
        studies: the N records, each scored by a model that was trained on the other folds.
        image: whether the model reads the film.
        text: whether it reads the note. Without the film it learns from records with a note alone.
        epochs: passes over a fold's training records.
    """
    config = RunConfig(
        data=DataConfig.model_validate(
            {
                "image": "image" if image else "",
                "text": "text" if text else "",
                "image_size": _SIZE,
                "text_tokens": _TOKENS,
            }
        ),
        training=TrainingConfig.model_validate({"learning_rate": 1e-3}),
    )
    score = np.zeros(len(studies.table))
    for train, test in studies.splits():
        model = _train(config, studies.records, train if image else train[studies.has_text[train]], epochs)
        model.eval()
        with torch.no_grad():
            parts = [TARGET.predictions(model(studies.records[rows]))[:, 1] for rows in _chunks(test)]
        score[test] = torch.logit(torch.cat(parts).double(), eps=1e-6).numpy()
    return score


def _train(config: RunConfig, records: Batch, rows: np.ndarray, epochs: int) -> torch.nn.Module:
    model = build_model(config)
    optimizer = make_optimizer(model, config.training)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model.train()
    for _ in range(epochs):
        for chunk in _chunks(rng.permutation(rows)):
            batch = records[chunk]
            image, text = batch.inputs["image"], batch.inputs["text"]
            kept = text.present & (torch.rand(text.present.shape) > _UNREAD)
            views = {
                "image": replace(image, values=_moved(image.values)),
                "text": replace(text, present=kept),
            }
            batch = replace(batch, inputs=views)
            optimizer.zero_grad(set_to_none=True)
            TARGET.losses(model(batch), batch.label).mean().backward()
            optimizer.step()
        schedule.step()
    return model


def _moved(image: torch.Tensor) -> torch.Tensor:
    """(R, 1, H, W), each shifted, turned, zoomed and mirrored at random."""
    turn, zoom = 0.08 * torch.randn(len(image)), 1 + 0.06 * torch.randn(len(image))
    mirror = torch.randint(0, 2, (len(image),)) * 2 - 1
    shift = 0.05 * torch.randn(2, len(image))
    rows = [zoom * turn.cos() * mirror, -zoom * turn.sin(), shift[0]]
    columns = [zoom * turn.sin() * mirror, zoom * turn.cos(), shift[1]]
    affine = torch.stack([torch.stack(rows, 1), torch.stack(columns, 1)], 1)  # [r, 2, 3]
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _chunks(rows: np.ndarray) -> Iterator[torch.Tensor]:
    return iter(torch.from_numpy(rows).split(_BATCH))


def score_stacked(studies: Studies, *scores: np.ndarray) -> np.ndarray:
    """(N,) log-odds by a logistic regression on out-of-fold scores, in the same folds (stacking, Wolpert 1992).

    The last score counts only where there is a note; having one is an input of its own.
    """
    *first, last = scores
    features = np.stack([*first, np.where(studies.has_text, last, 0), studies.has_text], axis=1)
    score = np.zeros(len(features))
    for train, test in studies.splits():
        learner = LogisticRegression().fit(features[train], studies.label[train])
        score[test] = learner.decision_function(features[test])
    return score


def assess(studies: Studies, score: np.ndarray, rows: np.ndarray) -> Evaluation:
    """AUROC of ``score`` on the records where ``rows`` (N,) is True."""
    table = studies.table[rows].assign(score=1 / (1 + np.exp(-score[rows])))
    sites = []
    for site, part in table.groupby("site"):
        share = part["finding"].mean()
        probability = np.stack([1 - part["score"], part["score"]], axis=1)
        patient = pd.factorize(part["patient_id"])[0]
        label = part["finding"].to_numpy()
        sites.append(Predictions(str(site), patient, label, probability, np.array([1 - share, share])))
    return evaluate(TARGET, sites, resamples=_RESAMPLES)


def measure(folder: Path, epochs: int = EPOCHS) -> list[dict[str, str | float]]:
    """The table's rows: what reads, how, on which records, and the AUROC it reaches."""
    studies = read_studies(folder)
    words = score_words(studies)
    network = {
        "image": score_network(studies, image=True, text=False, epochs=epochs),
        "text": score_network(studies, image=False, text=True, epochs=epochs),
        "image + text": score_network(studies, image=True, text=True, epochs=epochs),
    }
    every, noted = np.ones(len(studies.label), dtype=bool), studies.has_text
    cases = [
        ("site", "share of findings", "all", score_site(studies), every),
        ("site", "share of findings", "with note", score_site(studies), noted),
        ("image", "network", "all", network["image"], every),
        ("image", "network", "with note", network["image"], noted),
        ("text", "words", "with note", words, noted),
        ("text", "network", "with note", network["text"], noted),
        ("image + text", "stacked", "all", score_stacked(studies, network["image"], words), every),
        ("image + text", "stacked", "with note", score_stacked(studies, network["image"], words), noted),
        ("image + text", "network", "all", network["image + text"], every),
        ("image + text", "network", "with note", network["image + text"], noted),
    ]
    return [
        _row(case, system, records, assess(studies, score, rows))
        for case, system, records, score, rows in cases
    ]


def _row(case: str, system: str, records: str, result: Evaluation) -> dict[str, str | float]:
    return {
        "case": case,
        "system": system,
        "records": records,
        "auroc": result.pooled.value,
        "low": result.pooled.low,
        "high": result.pooled.high,
        "within_site": result.within_site.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how hard the generated hospitals are.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's rows to FILE")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="passes of the networks (default %(default)s)"
    )
    options = parser.parse_args()
    rows = measure(demo.dataset(), options.epochs)
    print(f"{'reads':14}{'learner':20}{'records':12}{'AUROC [95 % interval]':26}within sites")
    for row in rows:
        interval = f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{row['case']:14}{row['system']:20}{row['records']:12}{interval:26}{row['within_site']:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
