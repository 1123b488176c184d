"""What each lever gives at equal epsilon: whole simulated runs, AUROC of held-out patients.

Every cell is a run of `mmmed simulate` in a folder of its own below --out; a cell whose run is finished is not run
again, one that was interrupted is continued. Repeats keep the split and the initialisation and draw fresh noise, so
the spread over repeats is the noise's and the interval (a bootstrap over patients, mean of the repeats') the data's.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmed.config import RunConfig, resolve
from simulations.bench.measure import Row, parser, publish
from simulations.simulate import resume_run, start_run

Settings = dict[str, Any]

_SGD: Settings = {"training.optimizer": "sgd", "training.learning_rate": 1.0}
_SCRATCH: Settings = {
    "model.image": "resnet10", "model.text": "tiny", "model.fusion.kind": "attention", "model.trainable": "full",
    "training.optimizer": "adam", "training.learning_rate": 2e-3, "privacy.clipping": "flat",
}  # fmt: skip
_FROZEN: Settings = {
    "model.image": "efficientnet-lite0", "model.text": "minilm", "model.trainable": "fusion-head",
}  # fmt: skip
_LINEAR: Settings = _SCRATCH | _FROZEN | _SGD | {"model.fusion.kind": "linear"}

LEVERS: dict[str, Settings] = {
    "from scratch": _SCRATCH,
    "frozen, attention": _SCRATCH | _FROZEN,
    "frozen, linear": _LINEAR,
    "  AUTO-S": _LINEAR | {"privacy.clipping": "automatic"},
    "  learning rate 0.3": _LINEAR | {"training.learning_rate": 0.3},
    "  learning rate 2": _LINEAR | {"training.learning_rate": 2.0},
    "  half the batch": _LINEAR | {"training.batch_size": 0.5},  # a factor
    "  4 views": _LINEAR | {"training.augment": True, "training.views": 4},
    "  128 pixels": _LINEAR | {"data.image_size": 128},
    "  average of rounds": _LINEAR | {"federation.ema": 0.5},
    "LoRA, linear": _LINEAR | {"model.trainable": "lora"},
    "full, linear": _LINEAR
    | {"model.trainable": "full", "training.optimizer": "adam", "training.learning_rate": 1e-4},
}

WITHOUT = "none"


@dataclass(frozen=True)
class Cell:
    """One run: a lever at an epsilon ("none" for no privacy)."""

    lever: str
    epsilon: str
    repeat: int

    @property
    def folder(self) -> str:
        return f"{self.lever.strip().replace(' ', '-').replace(',', '')}_{self.epsilon}_{self.repeat}"

    def config(self, base: Path | None, data: str | None) -> RunConfig:
        """The run's configuration: the file's, with the lever's settings."""
        batch = resolve(base).config.training.batch_size
        settings = dict(LEVERS[self.lever])
        settings["training.batch_size"] = max(1, round(settings.get("training.batch_size", 1) * batch))
        privacy = (
            {"privacy.enabled": False}
            if self.epsilon == WITHOUT
            else {"privacy.target_epsilon": float(self.epsilon)}
        )
        source = {"data.source": data} if data else {}
        return resolve(base, options=settings | privacy | source).config


def run_cell(cell: Cell, config: RunConfig, out: Path, workers: int) -> dict[str, Any]:
    """Run a cell to its end, or find what an earlier process did of it, and read its evaluation.

    Args:
        cell: lever, epsilon and repeat.
        config: of the run (`Cell.config`).
        out: folder of all cells.
        workers: processes for the sites.

    Returns:
        The section ``auroc`` of the run's evaluation.json.
    """
    folder = out / cell.folder
    evaluation = folder / "evaluation.json"
    if not evaluation.is_file():
        with contextlib.redirect_stdout(io.StringIO()):
            if (folder / "config.toml").is_file():
                resume_run(folder, engine="inprocess", workers=workers)
            else:
                start_run(config, folder=folder, engine="inprocess", workers=workers)
    found: dict[str, Any] = json.loads(evaluation.read_text(encoding="utf-8"))["auroc"]
    return found


def row(lever: str, epsilon: str, found: list[dict[str, Any]]) -> Row:
    """One line of the table: means over repeats."""

    def shown(name: str) -> str:
        values = {key: statistics.mean(one[name][key] for one in found) for key in ("value", "low", "high")}
        return f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"

    spread = [one["pooled"]["value"] for one in found]
    return {
        "lever": lever,
        "epsilon": epsilon,
        "runs": len(found),
        "pooled": shown("pooled"),
        "within sites": shown("within_site"),
        "site alone": shown("site_only"),
        "spread of pooled": f"{max(spread) - min(spread):.3f}",
    }


def main(argv: list[str] | None = None) -> int:
    """Run the cells that are missing, print the table, and write the rows to a file if asked."""
    options = parser("utility", (__doc__ or "").splitlines()[0], repeats=3)
    options.add_argument("--out", type=Path, required=True, help="folder of the runs; kept, and continued")
    options.add_argument(
        "--config", type=Path, help="TOML file of the data set; default: generated hospitals"
    )
    options.add_argument("--data", help="folder of the data set")
    options.add_argument("--epsilon", action="append", help=f'may be repeated; "{WITHOUT}" for no privacy')
    options.add_argument("--lever", action="append", choices=list(LEVERS), help="only this; may be repeated")
    options.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    chosen = options.parse_args(argv)
    table: list[Row] = []
    for lever in chosen.lever or LEVERS:
        for epsilon in chosen.epsilon or ("1", "8"):
            found = []
            for repeat in range(1 if epsilon == WITHOUT else chosen.repeats):
                cell = Cell(lever, epsilon, repeat)
                config = cell.config(chosen.config, chosen.data)
                found.append(run_cell(cell, config, chosen.out, chosen.workers))
            table.append(row(lever, epsilon, found))
            delta = config.privacy.delta
            publish(f"AUROC at delta {delta:g}, epsilon for the whole run at each site", table, chosen.json)
    return 0
