"""`mmmed simulate sweep`: whole simulated runs over settings, scenarios and seeds, in one tidy table.

Each cell is one run in one process, so that cells, not sites, share the machine: to `InProcessGrid` a cell is a node,
and `app` below is its ClientApp. A finished cell is not run again and an interrupted one is continued. The table is
written anew as each cell ends. Seeds are of the initialisation, the splits and the augmentation; noise has none.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from mmmed.config import RunConfig, combinations, from_flat, parse_vary
from mmmed.config.sources import flat_from_json, to_json
from mmmed.errors import ConfigError, MmmedError
from mmmed.federation.protocol import Refusal, code_of, meaning
from mmmed.files import write_atomic
from privacy.errors import PrivacyError
from server.messaging import gather
from server.run_folder import finished_rounds
from simulations.grid import InProcessGrid
from simulations.scenarios import PREFIX, Scenario, parse_grid, read_scenario
from simulations.trial import EVALUATION, evaluated_trial

RUNS = "runs"  # folder of the cells
TABLE = "results.parquet"
_FOREVER = 30 * 24 * 3600.0  # seconds that a cell may take, and wait: as long as anybody would
_SEED = "training.seed"
_SEEDS = re.compile(r"(\d+)(?:\.\.(\d+))?")

app = ClientApp()


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        settings: the varied keys and their values here, those of the scenario after "scenario.".
        config: of the run, its seed included.
        scenario: of its sites; None for the data set's own.
    """

    settings: Mapping[str, Any]
    config: RunConfig
    scenario: Scenario | None

    @property
    def name(self) -> str:
        """Of its run folder: the same settings have the same."""
        own = self.scenario.to_toml() if self.scenario else ""
        return hashlib.sha256(f"{self.config.digest}\0{own}".encode()).hexdigest()[:12]

    def folder(self, out: Path) -> Path:
        """Its run folder below a sweep's. What a server keeps beside its run folders is then the cell's alone."""
        return out / RUNS / self.name / "run"

    @property
    def described(self) -> str:
        """In one line of text."""
        parts = [f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items()]
        return ", ".join([*parts, f"seed {self.config.training.seed}"])


@dataclass(frozen=True)
class Ended:
    """How a cell ended.

    Attributes:
        cell: which.
        error: why it has no result; "" if it has.
        score: the main score within sites, if it has one.
        ran: False where it was finished before.
    """

    cell: Cell
    error: str
    score: float | None
    ran: bool


def parse_seeds(text: str) -> list[int]:
    """Seeds from a text such as ``0..4`` (both ends count) or ``0,3,7``.

    Raises:
        ConfigError: it is not of this form, or a seed is named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise ConfigError(
                f"--seeds {text}: expected numbers such as 0..4 or 0,3,7. Found {part.strip()!r}"
            )
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed is named twice")
    return seeds


def cells_of(
    config: Path | None, assignments: Sequence[str], scenarios: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """The cells of a sweep: every combination of the values, with every scenario and every seed.

    Args:
        config: TOML file of the configuration, or None.
        assignments: texts ``key=value,value,...``; a key with one value is set and not varied.
        scenarios: their names or files; none for the data set's own sites.
        seeds: of `training.seed`.

    Raises:
        ConfigError: a key is unknown, or a combination is not valid.
    """
    of_run, of_scenario = parse_grid(assignments)
    if of_scenario and not scenarios:
        raise ConfigError(f"--set {PREFIX}{next(iter(of_scenario))}: give the --scenario whose key it is")
    emptied = [text for text in of_run if text.partition("=")[1:] == ("=", "")]  # such as data.image=
    listed = [text for text in of_run if text not in emptied]
    varied = parse_vary(listed, "--set")
    if _SEED in varied:
        raise ConfigError(f"--set {_SEED}: --seeds sets it")
    fixed = emptied + [text for text, values in zip(listed, varied.values(), strict=True) if len(values) == 1]
    varied = {key: values for key, values in varied.items() if len(values) > 1}
    own = [dict(zip(of_scenario, values, strict=True)) for values in itertools.product(*of_scenario.values())]
    chosen: list[tuple[dict[str, Any], Scenario | None]] = [({}, None)]
    if scenarios:
        chosen = [
            (
                {"scenario": read_scenario(name).name}
                | {f"{PREFIX}{key}": one[key] for key, values in of_scenario.items() if len(values) > 1},
                read_scenario(name, one),
            )
            for name in scenarios
            for one in own
        ]
    cells = [
        Cell(settings | candidate.settings, _with_seed(candidate.config, seed), scenario)
        for (settings, scenario), candidate, seed in itertools.product(
            chosen, combinations(varied, config, fixed), seeds
        )
    ]
    if len({cell.name for cell in cells}) < len(cells):
        raise ConfigError("two cells of the sweep are the same run: a scenario is given twice")
    return cells


def sweep(cells: Sequence[Cell], out: Path, workers: int) -> Iterator[Ended]:
    """Run the cells, and write ``results.parquet`` and ``results.csv`` to `out` as each ends.

    A cell that cannot run does not hold up the others.

    Args:
        cells: of `cells_of`.
        out: folder of the table and of all runs; one of an earlier sweep is continued.
        workers: cells that run at once, each in a process; 0 runs one after the other in this process.

    Yields:
        Each cell as it ends; first those that were finished before.
    """
    done = [cell for cell in cells if (cell.folder(out) / EVALUATION).is_file()]
    finished: list[Cell] = []
    for cell in done:
        finished.append(cell)
        yield Ended(cell, "", _score(cell, out), ran=False)
    if finished:
        _write(finished, out)
    left = [cell for cell in cells if cell not in done]
    for cell, error in _run(left, out, workers) if left else ():
        if not error:
            finished.append(cell)
            _write([one for one in cells if one in finished], out)
        yield Ended(cell, error, None if error else _score(cell, out), ran=True)


def _run(cells: Sequence[Cell], out: Path, workers: int) -> Iterator[tuple[Cell, str]]:
    """Each cell as it ends, and why it has no result, else ""."""
    with InProcessGrid(f"{__name__}:app", [{}] * len(cells), workers=min(workers, len(cells))) as grid:
        nodes = dict(zip(grid.get_node_ids(), cells, strict=True))
        messages = [
            Message(_request(cell, out), node, MessageType.TRAIN, ttl=_FOREVER, group_id=uuid.uuid4().hex)
            for node, cell in nodes.items()
        ]
        for message, reply, _ in gather(grid, messages, _FOREVER):
            cell = nodes[message.metadata.dst_node_id]
            if reply is None or reply.has_error():
                code = Refusal.NO_REPLY if reply is None else code_of(reply)
                yield cell, f"{code}: {meaning(code)}"
            else:
                yield cell, str(reply.content["cell"]["error"])


def _request(cell: Cell, out: Path) -> RecordDict:
    fields = {
        "config": to_json(cell.config),
        "scenario": cell.scenario.model_dump_json() if cell.scenario else "",
        "folder": str(cell.folder(out).absolute()),
    }
    return RecordDict({"cell": ConfigRecord({**fields})})


@app.train()
def run_cell(message: Message, context: Context) -> Message:
    """A cell's whole run; what the user can mend is the reply's error."""
    asked, error = message.content["cell"], ""
    scenario = Scenario.model_validate_json(str(asked["scenario"])) if asked["scenario"] else None
    try:
        config = from_flat(flat_from_json(str(asked["config"])))
        evaluated_trial(config, Path(str(asked["folder"])), 0, scenario)
    except (MmmedError, PrivacyError, OSError) as problem:
        error = str(problem) or type(problem).__name__
    return Message(RecordDict({"cell": ConfigRecord({"error": error})}), reply_to=message)


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def _score(cell: Cell, out: Path) -> float | None:
    """The main score within sites."""
    found = evaluated_trial(cell.config, cell.folder(out), 0, cell.scenario)  # it is there: it is read
    value: float | None = found[cell.config.task.target().score.name]["within_site"]["value"]
    return value


# ---------------------------------------------------------------- the table


def tidy(cells: Sequence[Cell], out: Path) -> pd.DataFrame:
    """The table of finished cells: a row for each run, site and score.

    Columns: ``run`` (the folder below `RUNS` that holds it), one for each varied key, ``seed``, ``scope`` ("pooled"
    over sites, "within_site", "site_only", "site" for one of them, "run" for what the run cost), ``site`` (its name,
    else ""), ``score`` and ``value`` (float64, NaN where undefined).
    """
    rows = [
        {"run": cell.name, **cell.settings, "seed": cell.config.training.seed, **row}
        for cell in cells
        for row in _rows(cell.folder(out))
    ]
    frame = pd.DataFrame(rows)
    for column in frame.columns:
        if len({type(value) for value in frame[column]}) > 1 and column != "value":
            frame[column] = frame[column].map(_text)
    return frame.astype({"value": "float64"}) if rows else frame


@cache
def _rows(folder: Path) -> tuple[dict[str, Any], ...]:
    """`run_rows` of a finished run, which changes no more."""
    return tuple(run_rows(folder))


def run_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What a run folder says, as rows of `tidy` without what they share."""

    def row(scope: str, site: str, score: str, value: float | None) -> dict[str, Any]:
        return {"scope": scope, "site": site, "score": score, "value": value}

    for score, found in json.loads((folder / EVALUATION).read_text(encoding="utf-8")).items():
        for scope in ("pooled", "within_site", "site_only"):
            if scope in found:
                yield row(scope, "", score, found[scope]["value"])
        for site, value in found.get("sites", {}).items():
            yield row("site", site, score, value)
    report = folder / "report" / "privacy.json"
    if report.is_file():
        for site in json.loads(report.read_text(encoding="utf-8"))["sites"]:
            yield row("site", site["site"], "epsilon_charged", float(site["epsilon_charged"]))
    for name, value in cost(folder).items():
        yield row("run", "", name, value)


def cost(folder: Path) -> dict[str, float]:
    """Seconds of training and evaluation, and bytes to all sites and from them, of a run."""
    rounds = finished_rounds(folder)
    lines = [line for one in rounds for phase in ("train", "evaluate") for line in one[phase]]
    return {
        "seconds": sum(one["train_seconds"] + one.get("evaluate_seconds", 0.0) for one in rounds),
        "bytes_down": float(sum(line["bytes_down"] for line in lines)),
        "bytes_up": float(sum(line["bytes_up"] for line in lines)),
    }


def _write(cells: Sequence[Cell], out: Path) -> None:
    frame, binary = tidy(cells, out), io.BytesIO()
    frame.to_parquet(binary)
    write_atomic(out / TABLE, binary.getvalue())
    write_atomic(out / Path(TABLE).with_suffix(".csv"), frame.to_csv(index=False))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
