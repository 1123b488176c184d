"""Leakage suspects: words that are the label, and facts that are no medicine but tell it.

The label here is the number of its group (`mmmed.tasks.base.Target.groups`), whatever the task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mmmed.modalities import MODALITIES

_PHI = 0.6  # correlation of a word's presence with the label at which it is named
_RAREST = 0.02
_FACTS = ("site", "view", "modality", "body_part", "laterality", "shape", "spacing_mm")
_FOLDS = 5
_OCTILES = 8
_MOST_COLUMNS = 100


def telling_words(records: pd.DataFrame, most: int = 10) -> list[tuple[str, float]]:
    """Words whose presence in a patient's notes correlates with the patient's label, strongest first.

    ``records`` has columns patient, text and label. The correlation is phi, in [-1, 1].
    """
    patients = records.groupby("patient").agg(text=("text", " ".join), label=("label", "max"))
    label = (patients["label"] > 0).to_numpy(dtype=float)
    if label.std() == 0:
        return []
    counter = CountVectorizer(
        binary=True, min_df=max(2, int(_RAREST * len(patients))), token_pattern=r"(?u)\b\w{3,}\b"
    )
    try:
        present = counter.fit_transform(patients["text"])
    except ValueError:  # no word is frequent enough
        return []
    share = np.asarray(present.mean(axis=0)).ravel()
    both = np.asarray(present.T @ label).ravel() / len(label)
    spread = np.sqrt((share * (1 - share)).clip(0)) * label.std()
    phi = np.divide(both - share * label.mean(), spread, out=np.zeros_like(share), where=spread > 0)
    words = counter.get_feature_names_out()
    order = np.argsort(-np.abs(phi))[:most]
    return [(str(words[i]), float(phi[i])) for i in order if abs(phi[i]) >= _PHI]


def shortcut_auroc(records: pd.DataFrame, table: pd.DataFrame) -> tuple[float | None, list[str]]:
    """AUROC of a logistic regression on non-clinical facts, patients held out (5 folds); and the facts.

    Facts: the site, columns of the table that describe the acquisition, which files there are, whether there is
    a note, and how long it is. With several classes: the mean one-against-rest AUROC. ``None`` if there is too
    little to fit. ``records`` are the manifest's, ``table`` the rows that they come from.
    """
    facts = records[["patient"]].copy()
    for modality in MODALITIES.values():
        facts = facts.assign(**modality.facts(records))
    facts["site"] = records["site"]
    for name in _FACTS:
        if name != "site" and name in table.columns:
            facts[name] = table[name].fillna("").astype(str).to_numpy()
    varied = [name for name in facts.columns if name != "patient" and facts[name].nunique() > 1]
    if not varied or records.groupby("label")["patient"].nunique().min() < _FOLDS:
        return None, varied
    return _held_out_auroc(facts[varied], records), varied


def telling_columns(
    records: pd.DataFrame, table: pd.DataFrame, columns: Sequence[str]
) -> list[tuple[str, float]]:
    """AUROC of the label from one column alone, patients held out, highest first.

    Numbers are cut at their octiles, so that a relation of any shape is found; that a cell is empty is a value, too.
    Columns of one value, or of a different one in most cells (a name, free text), are left out.
    """
    if records.groupby("label")["patient"].nunique().min() < _FOLDS:
        return []
    found = []
    for column in columns[:_MOST_COLUMNS]:
        cells = table[column].replace("", np.nan)
        numbers = pd.to_numeric(cells, errors="coerce")
        if numbers.notna().sum() == cells.notna().sum() and numbers.nunique() > _OCTILES:
            cells = pd.qcut(numbers, _OCTILES, duplicates="drop").cat.codes.where(numbers.notna())
        kinds = cells.astype(object).where(cells.notna(), "").astype(str)
        if 1 < kinds.nunique() <= len(kinds) / 2:
            found.append((str(column), _held_out_auroc(pd.DataFrame({"kind": kinds}), records)))
    return sorted(found, key=lambda one: -one[1])


def _held_out_auroc(facts: pd.DataFrame, records: pd.DataFrame) -> float:
    """AUROC of a logistic regression on ``facts`` (N rows), patients held out; the mean over classes if several."""
    words = [name for name in facts.columns if facts[name].dtype.kind not in "fi"]
    numbers = [name for name in facts.columns if name not in words]
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", min_frequency=3), words), (StandardScaler(), numbers)
        ),
        LogisticRegression(max_iter=500),
    )
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(
        model, facts, records["label"], groups=records["patient"], cv=folds, method="predict_proba"
    )
    if scores.shape[1] == 2:
        return float(roc_auc_score(records["label"], scores[:, 1]))
    return float(roc_auc_score(records["label"], scores, multi_class="ovr"))
