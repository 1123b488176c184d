"""What the frozen features can give at all: logistic regression on all sites' records in one place, without privacy.

The model's fusion must be linear. The gap to a run without privacy is federation's and the optimiser's; what then is
missing to a private run is privacy's. The regularisation is the best of three on the held-out patients: a ceiling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from client.simulated import simulated_manifest
from mmmed.config import RunConfig, resolve
from mmmed.data.loader import Records, open_site_data
from mmmed.inference.evaluate import Evaluation, evaluate
from mmmed.inference.predict import Predictions
from mmmed.models import FrozenEncoders, build_model
from mmmed.paths import feature_cache, image_cache
from simulations.bench.measure import parser, publish

_REGULARISATION = (1e-4, 1e-3, 1e-2)  # scikit-learn's C


def main(argv: list[str] | None = None) -> int:
    """Print the ceiling's AUROC."""
    options = parser("ceiling", (__doc__ or "").splitlines()[0], repeats=1)
    options.add_argument("--config", type=Path, required=True, help="TOML file with frozen encoders")
    options.add_argument("--data", help="folder of the data set")
    chosen = options.parse_args(argv)
    settings = {"data.source": chosen.data} if chosen.data else {}
    best = max(
        _evaluations(resolve(chosen.config, options=settings).config), key=lambda one: one.pooled.value
    )
    row = {
        "pooled": str(best.pooled),
        "within sites": str(best.within_site),
        "site alone": str(best.site_only),
    }
    publish("AUROC of logistic regression on the frozen features, all sites in one place", [row], chosen.json)
    return 0


def _evaluations(config: RunConfig) -> list[Evaluation]:
    model = build_model(config).eval()
    encoders = FrozenEncoders(model, config, feature_cache())
    model.head = nn.Identity()  # type: ignore[assignment]
    manifest = simulated_manifest(config)
    sites = [
        encoders.site(open_site_data(manifest.of_site(name), config, image_cache()))
        for name in manifest.sites
    ]
    train = np.concatenate([_features(model, site.train) for site in sites])
    scaler = StandardScaler().fit(train)
    label = np.concatenate([site.train.labels for site in sites])
    target, found = config.task.target(), []
    for strength in _REGULARISATION:
        learner = LogisticRegression(C=strength, max_iter=500).fit(scaler.transform(train), label)
        found.append(
            evaluate(
                target,
                [
                    Predictions(
                        name,
                        site.test.patient,
                        site.test.labels,
                        learner.predict_proba(scaler.transform(_features(model, site.test))),
                        target.guess(site.train.labels),
                    )
                    for name, site in zip(manifest.sites, sites, strict=True)
                ],
            )
        )
    return found


@torch.no_grad()
def _features(model: nn.Module, records: Records) -> np.ndarray:
    """(N, d) what the linear layer reads."""
    return np.concatenate([model(batch).numpy() for batch in records.batches(64)])
