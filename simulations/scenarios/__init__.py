"""Scenarios: who has which patients, what is missing, who comes late or leaves, and who means ill.

A scenario is a section of its own beside the run's configuration. It acts on what a simulation owns, the common table
and the simulated sites, so it never reaches a real site, and a run has the same configuration, digest and code with it
and without. Those that come with mmmed are the TOML files of this folder.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from mmmed.config.schema import MOST_SITES
from mmmed.config.vary import listed_values
from mmmed.errors import ConfigError
from mmmed.section import FrozenTable, Positive, PositiveFloat, Section

PREFIX = "scenario."  # begins an assignment that is of the scenario: --set scenario.alpha=0.1
_FOLDER = Path(__file__).parent


class Missing(Section):
    """Records that lack a modality, to train on and to test on alike. None loses the last one that it has."""

    modality: str = Field(description="name of the modality, as `text`")
    sites: tuple[str, ...] = Field((), description="names of the sites; none is every site")
    share: float = Field(1.0, gt=0, le=1, description="share of these sites' records that lack it")


class Malicious(Section):
    """Sites that work against the run. What they state of their privacy is what they were charged.

    label-flip: trains on labels that stand at the other end of their order (Fang et al. 2020, arXiv 1911.11815);
    sign-flip: sends `-strength` times its update; scale: sends `strength` times its update, which the server bounds as
    any other; free-rider: sends noise of `strength` times its update's norm, 0 for the model as it came (Fraboni et
    al. 2021, arXiv 2006.11901).
    """

    sites: tuple[str, ...] = Field(min_length=1, description="names of the sites")
    kind: Literal["label-flip", "sign-flip", "scale", "free-rider"] = Field(
        description="what they do, see above"
    )
    strength: float = Field(
        1.0, ge=0, le=1000, description="what the update is multiplied by; not for label-flip"
    )

    @property
    def changes_update(self) -> bool:
        """Whether it acts on what is sent; else on the labels that are trained on."""
        return self.kind != "label-flip"


class Scenario(Section):
    """One scenario. The defaults are the data as they are."""

    name: str = Field("", description="what it is called; its file's name by default")
    split: Literal["natural", "iid", "dirichlet", "quantity"] = Field(
        "natural",
        description="who has which patients: the table's sites; anybody; sites of one size, each with its own mix of "
        "labels; sites of other sizes with everybody's mix of labels. A patient is at one site",
    )
    sites: int = Field(
        0,
        ge=0,
        le=MOST_SITES,
        description="number of sites, where the split is not natural; called site-1, ... (site-01 from ten on)",
    )
    alpha: PositiveFloat = Field(
        0.5,
        description='of "dirichlet", and of "quantity" without shares: the smaller, the more sites differ; 1,000 is '
        'nearly "iid"',
    )
    shares: tuple[PositiveFloat, ...] = Field(
        (), description='of "quantity": how the patients are shared out, a number a site; none to draw it'
    )
    fewest: Positive = Field(
        10,
        description="patients that every site has at least, where the split is not natural (one or two fewer by "
        'rounding, with "dirichlet")',
    )
    same_labels: bool = Field(
        False,
        description='of "natural": patients are left out so that all sites have the same mix of labels, and differ in '
        "the rest alone",
    )
    missing: tuple[Missing, ...] = Field((), description="records that lack a modality")
    join: FrozenTable[Positive] = Field({}, description="site: the first round in which it answers")
    drop: FrozenTable[Positive] = Field({}, description="site: the first round in which it answers no more")
    unreachable: float = Field(
        0.0, ge=0, lt=1, description="share of its rounds in which a site does not answer"
    )
    malicious: tuple[Malicious, ...] = Field((), description="sites that mean ill")

    @model_validator(mode="after")
    def _split_suits(self) -> Scenario:
        dealt = self.split != "natural"
        if dealt and self.sites < 2:
            raise ValueError(f"split = {self.split!r} needs sites, 2 or more. Found {self.sites}")
        if not dealt and self.sites:
            raise ValueError(f'split = "natural" has the table\'s sites: leave out sites = {self.sites}')
        if self.shares and (self.split != "quantity" or len(self.shares) != self.sites):
            raise ValueError(f'shares are for split = "quantity", a number for each of sites = {self.sites}')
        if self.same_labels and dealt:
            raise ValueError('same_labels is for split = "natural"')
        return self

    @property
    def changes_data(self) -> bool:
        """Whether sites have another table than the run's own."""
        flips = not all(one.changes_update for one in self.malicious)
        return self.split != "natural" or self.same_labels or bool(self.missing) or flips

    @property
    def has_behaviour(self) -> bool:
        """Whether some site may be absent, or send something else than its update."""
        away = bool(self.join or self.drop or self.unreachable)
        return away or any(one.changes_update for one in self.malicious)

    @property
    def named(self) -> list[str]:
        """Names of sites that it speaks of, sorted."""
        parts: list[Iterable[str]] = [self.join, self.drop, *(one.sites for one in self.missing)]
        parts += [one.sites for one in self.malicious]
        return sorted({name for part in parts for name in part})

    def to_toml(self) -> str:
        """As TOML that `read_scenario` reads back."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def scenario_files() -> dict[str, Path]:
    """The scenarios that come with mmmed, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def about(path: Path) -> tuple[str, str]:
    """What a scenario's file says of itself, in the comment that it opens with: its command, and what it shows."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return (lines or [""])[0], " ".join(lines[1:])


def read_scenario(name: str, settings: Mapping[str, Any] | None = None) -> Scenario:
    """A scenario by its name, or from a TOML file.

    Args:
        name: of `scenario_files`, or the path of a file that ends in ``.toml``.
        settings: keys to set over what the file says.

    Raises:
        ConfigError: no such scenario, or a key or value of it is not valid.
    """
    files = scenario_files()
    path = Path(name) if name.endswith(".toml") else files.get(name)
    if path is None:
        near = difflib.get_close_matches(name, files, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "`mmmed simulate scenarios` lists them."
        raise ConfigError(
            f"--scenario: there is no scenario {name!r}. {hint} Or give a .toml file of your own"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Expected a scenario's TOML file"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return Scenario.model_validate({"name": path.stem} | values | dict(settings or {}))
    except ValidationError as error:
        raise ConfigError("\n".join(_told(name, problem) for problem in error.errors())) from error


def _told(name: str, problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Scenario.model_fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Its keys: {', '.join(Scenario.model_fields)}"
        return f"scenario {name}: unknown key {key!r}.{hint}"
    found = "" if isinstance(problem["input"], Mapping) else f". Found {problem['input']!r}"
    return ": ".join(
        filter(None, (f"scenario {name}", key, f"{problem['msg'].removeprefix('Value error, ')}{found}"))
    )


def parse_settings(texts: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Assignments ``key=value`` apart: those of the run's configuration, and the scenario's keys and values.

    Raises:
        ConfigError: an assignment to a scenario's key has no value.
    """
    run, listed = parse_grid(texts)
    for key, values in listed.items():
        if len(values) != 1:
            raise ConfigError(
                f"--set {PREFIX}{key}: expected one value, such as --set {PREFIX}alpha=0.1. `mmmed simulate sweep` "
                "takes several"
            )
    return run, {key: value for key, [value] in listed.items()}


def parse_grid(texts: Iterable[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Assignments ``key=value,value,...`` apart: the texts of the run's configuration; the scenario's keys and values.

    Raises:
        ConfigError: an assignment to a scenario's key has no value, or the key is given twice.
    """
    run: list[str] = []
    own: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = (part.strip() for part in text.partition("="))
        if not key.startswith(PREFIX):
            run.append(text)
            continue
        key = key.removeprefix(PREFIX)
        if not listed or key in own:
            raise ConfigError(
                f"--set {text}: expected {PREFIX}key=value once, such as --set {PREFIX}alpha=0.1"
            )
        own[key] = listed_values(listed)
    return run, own
