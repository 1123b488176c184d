"""What each lever gives at equal epsilon: whole simulated runs, AUROC of held-out patients, mean and spread over runs.

Every cell is a run of `mmmed simulate` in a folder of its own below --out; a cell whose run is finished is not run
again, one that was interrupted is continued. Repetitions keep the split and the initialisation; who is drawn and the
noise are fresh in each, as nothing can seed them. So the deviation over repetitions is the mechanism's, and the
interval (a bootstrap over patients, mean of the repetitions') the data's.

With --choose each lever takes, at each epsilon, the settings that rank best within sites on a validation split: of the
patients that are not held out, in a table without those that are. The chosen are then scored on these alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from client.simulated import simulated_manifest
from mmmed.config import RunConfig, TrainingConfig, combinations, parse_vary, resolve
from mmmed.data.cells import text_of
from mmmed.data.manifest import read_table, table_file
from mmmed.data.source import locate
from mmmed.data.split import held_out
from mmmed.errors import ConfigError
from simulations.bench.measure import Row, parser, publish
from simulations.simulate import resume_run, start_run

Settings = dict[str, Any]

_SGD: Settings = {"training.optimizer": "sgd", "training.learning_rate": 1.0}
_SCRATCH: Settings = {
    "model.image": "resnet10", "model.text": "tiny", "model.fusion.kind": "attention", "model.trainable": "full",
    "training.optimizer": "adam", "training.learning_rate": 2e-3, "privacy.clipping": "flat",
    "federation.release": "rounds", "federation.min_sites": 2, "federation.honest": 0,
}  # fmt: skip
_FROZEN: Settings = {
    "model.image": "efficientnet-lite0", "model.text": "minilm", "model.trainable": "fusion-head",
}  # fmt: skip
_LINEAR: Settings = (
    _SCRATCH | _FROZEN | _SGD | {"model.fusion.kind": "linear", "model.fusion.centring_steps": 0}
)
_STEPS: Settings = {
    "federation.release": "steps", "federation.rounds": 60, "training.learning_rate": 2.0,
    "training.local_epochs": TrainingConfig().local_epochs,
}  # fmt: skip
_CENTRED: Settings = {"model.fusion.centring_steps": 8}


def _masked(honest: int) -> Settings:
    """Steps of masked sums over four sites, whose noise so many of them share."""
    release = {"federation.release": "secure-steps", "federation.min_sites": 4, "federation.honest": honest}
    return _LINEAR | _STEPS | release


LEVERS: dict[str, Settings] = {
    "from scratch": _SCRATCH,
    "frozen, attention": _SCRATCH | _FROZEN,
    "frozen, linear": _LINEAR,
    "  steps": _LINEAR | _STEPS,
    **{f"  masked steps, h = {honest}": _masked(honest) for honest in (2, 3, 4)},
    "  steps, centred": _LINEAR | _STEPS | _CENTRED,
    **{f"  masked steps, h = {honest}, centred": _masked(honest) | _CENTRED for honest in (2, 3, 4)},
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
class Source:
    """Where a sweep's data are: a TOML file of the data set and a folder, each None for the generated hospitals'."""

    toml: Path | None
    data: str | None
    validation: Path | None = (
        None  # the table without held-out patients, if these runs are to choose settings
    )


@dataclass(frozen=True)
class Cell:
    """One run: a lever at an epsilon ("none" for no privacy), with further settings."""

    lever: str
    epsilon: str
    repeat: int
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def folder(self) -> str:
        lever = self.lever.strip().replace(" = ", "").replace(" ", "-").replace(",", "")
        further = "".join(f"_{key.split('.', 1)[1]}-{value}" for key, value in self.settings)
        return f"{lever}_{self.epsilon}{further}_{self.repeat}"

    def config(self, source: Source) -> RunConfig:
        """The run's configuration: the file's, with the lever's settings and these."""
        base = resolve(source.toml).config.training
        settings = LEVERS[self.lever] | dict(self.settings)
        settings["training.batch_size"] = max(
            1, round(settings.get("training.batch_size", 1) * base.batch_size)
        )
        if self.epsilon == WITHOUT:
            settings["privacy.enabled"] = False
            if settings.get("federation.release") == "secure-steps":  # no noise to share: the same sum
                settings["federation.release"] = "steps"
        else:
            settings["privacy.target_epsilon"] = float(self.epsilon)
        if source.data:
            settings["data.source"] = source.data
        if source.validation:  # another seed holds out others
            settings |= {"data.table": str(source.validation), "training.seed": base.seed + 1}
        return resolve(source.toml, options=settings).config


def validation_table(source: Source, out: Path) -> Path:
    """Write the data set's table without the patients that its runs hold out, and return the file.

    Raises:
        ConfigError: the data set has a column of folds, which settle who is held out.
        DataError: the table cannot be used.
    """
    config = resolve(source.toml, options={"data.source": source.data} if source.data else {}).config
    if config.data.fold:
        raise ConfigError("--choose splits by a hash of the patient: unset data.fold")
    manifest, root = simulated_manifest(config), locate(config.data.source)
    away = set(manifest.records["patient"][held_out(manifest, config.data, config.training.seed)])
    table = read_table(table_file(root, config.data))
    kept: pd.DataFrame = table[~table[config.data.patient].map(text_of).isin(away)]
    out.mkdir(parents=True, exist_ok=True)
    kept.to_csv(out / "validation.csv", index=False)
    return (out / "validation.csv").absolute()


def run_cell(cell: Cell, config: RunConfig, out: Path) -> dict[str, Any]:
    """Run a cell to its end in this process, or find what an earlier one did of it, and read its evaluation.

    Args:
        cell: lever, epsilon, repeat and settings.
        config: of the run (`Cell.config`).
        out: folder of all cells.

    Returns:
        The section ``auroc`` of the run's evaluation.json.
    """
    folder = (
        out / cell.folder / "run"
    )  # a run keeps its sites' receipts beside its folder: no two at once may share it
    evaluation = folder / "evaluation.json"
    if not evaluation.is_file():
        torch.set_num_threads(1)
        with contextlib.redirect_stdout(io.StringIO()):
            if (folder / "config.toml").is_file():
                resume_run(folder, engine="inprocess", workers=0)
            else:
                start_run(config, folder=folder, engine="inprocess", workers=0)
        shutil.rmtree(folder / "model", ignore_errors=True)  # its encoders are large, and every cell's
    found: dict[str, Any] = json.loads(evaluation.read_text(encoding="utf-8"))["auroc"]
    return found


class Sweep:
    """Runs cells, several at a time: a process keeps what it has read for the next cell."""

    def __init__(self, source: Source, out: Path, pool: ProcessPoolExecutor) -> None:
        self._source, self._out, self._pool = source, out, pool

    def repeated(self, cell: Cell, seeds: int) -> list[dict[str, Any]]:
        """The evaluations of so many repetitions; without privacy one, since all are alike."""
        return next(self.of([cell], seeds))

    def of(self, cells: Sequence[Cell], seeds: int) -> Iterator[list[dict[str, Any]]]:
        """`repeated` for each cell."""
        waiting = []
        for cell in cells:
            config = cell.config(self._source)
            repeats = range(1 if cell.epsilon == WITHOUT else seeds)
            own = [replace(cell, repeat=repeat) for repeat in repeats]
            waiting.append([self._pool.submit(run_cell, one, config, self._out) for one in own])
        for runs in waiting:
            yield [run.result() for run in runs]

    def best(self, cells: Sequence[Cell], seeds: int) -> Cell:
        """The cell whose repetitions rank best within sites on average."""
        if len(cells) == 1:
            return cells[0]
        merits = [mean(found, "within_site") for found in self.of(cells, seeds)]
        return cells[merits.index(max(merits))]


def mean(found: Sequence[dict[str, Any]], name: str, key: str = "value") -> float:
    """Over repetitions, of one number of an interval."""
    return statistics.mean(one[name][key] for one in found)


def row(cell: Cell, found: list[dict[str, Any]]) -> Row:
    """One line of the table: means over repetitions, and their standard deviation where there are several."""

    def shown(name: str) -> str:
        low, high = (mean(found, name, key) for key in ("low", "high"))
        return f"{mean(found, name):.3f} [{low:.3f}, {high:.3f}]"

    def deviation(name: str) -> str:
        values = [one[name]["value"] for one in found]
        return f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"

    return {
        "lever": cell.lever,
        "epsilon": cell.epsilon,
        "settings": ", ".join(f"{key.split('.', 1)[1]} {value}" for key, value in cell.settings) or "-",
        "runs": len(found),
        "pooled": shown("pooled"),
        "sd": deviation("pooled"),
        "within sites": shown("within_site"),
        "sd within": deviation("within_site"),
        "site alone": shown("site_only"),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the cells that are missing, print the table, and write the rows to a file if asked."""
    options = parser("utility", (__doc__ or "").splitlines()[0], repeats=None)
    options.add_argument(
        "--seeds", type=int, default=3, help="repetitions with fresh noise (default: %(default)s)"
    )
    options.add_argument("--out", type=Path, required=True, help="folder of the runs; kept, and continued")
    options.add_argument(
        "--config", type=Path, help="TOML file of the data set; default: generated hospitals"
    )
    options.add_argument("--data", help="folder of the data set")
    options.add_argument("--epsilon", action="append", help=f'may be repeated; "{WITHOUT}" for no privacy')
    options.add_argument("--lever", action="append", choices=list(LEVERS), help="only this; may be repeated")
    options.add_argument(
        "--choose", action="append", metavar="KEY=V,V", default=[], help="chosen on a validation split"
    )
    options.add_argument(
        "--choose-seeds", type=int, default=3, help="runs of each choice (default: %(default)s)"
    )
    options.add_argument("--workers", type=int, default=2, help="runs at a time (default: %(default)s)")
    chosen = options.parse_args(argv)
    source, table = Source(chosen.config, chosen.data), []
    settings = [tuple(one.settings.items()) for one in combinations(parse_vary(chosen.choose), chosen.config)]
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        test = Sweep(source, chosen.out, pool)
        validation = test
        if chosen.choose:
            kept = validation_table(source, chosen.out / "validation")
            validation = Sweep(replace(source, validation=kept), chosen.out / "validation", pool)
        for lever in chosen.lever or LEVERS:
            for epsilon in chosen.epsilon or ("1", "8"):
                cells = [Cell(lever, epsilon, 0, one) for one in settings]
                best = validation.best(cells, chosen.choose_seeds)
                table.append(row(best, test.repeated(best, chosen.seeds)))
                delta = best.config(source).privacy.delta
                publish(
                    f"AUROC at delta {delta:g}, epsilon for the whole run at each site", table, chosen.json
                )
    return 0
