"""Who is one patient, since the unit of privacy is the patient: spellings, issuers, other ids, a site's own crosswalk.

* Ids that differ in case, spaces and the zeros before a number are one (`spelled`).
* One id from two issuers is two patients. Without an issuer it is neither, and refused.
* Ids that a header states of one person (OtherPatientIDs) are one patient, and so are those that the crosswalk names.
* Ids under which sources give one full name and birth date may be one person: they stay apart for values and notes,
  and are one patient for the ledger, unless the crosswalk says otherwise.
* A word such as UNKNOWN is no id.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mmmed.deidentify.keys import spelled
from mmmed.errors import ConfigError
from mmmed.ingest.records import Patient

_NO_ID = re.compile(
    r"0+|9{4,}|X+|\W+|N/?A|NAN|NIL|NULL|NONE|NO(?:ID|NAME|PATIENTID)|UN(?:KNOWN|KOWN|BEKANNT|NAMED|IDENTIFIED|DEFINED)|"
    r"N\.?N\.?|OHNE|KEINE?|ANON(?:YM(?:OUS|IZED|ISED|IZE|ISE|ISIERT|US)?)?|TEST|DUMMY|EMERGENCY|NOTFALL|TEMP(?:ORARY)?|PATIENT(?:ID)?|"
    r"(?:UNKNOWN|ANONYMOUS|NO|TEST|DUMMY)?[-_]?(?:PATIENT|PAT)?[-_]?(?:ID)?|NOTAVAILABLE|MISSING|EMPTY|DEFAULT|PHANTOM"
)
_NO_BIRTH = {"19000101", "18000101", "19700101", "00010101"}  # what systems write where they know none

_T = TypeVar("_T", bound=Hashable)


@dataclass(frozen=True)
class Identity:
    """An id as a source writes it, and who gave it ("" if the source does not say)."""

    id: str
    issuer: str = ""


def is_no_id(identifier: str) -> bool:
    """Whether a text stands where an id should and identifies nobody."""
    return _NO_ID.fullmatch(spelled(identifier)) is not None


class _Groups(Generic[_T]):
    """A partition into sets that can be united."""

    def __init__(self) -> None:
        self._above: dict[_T, _T] = {}

    def of(self, one: _T) -> _T:
        """What stands for the set of ``one``."""
        while (above := self._above.get(one, one)) != one:
            self._above[one] = one = self._above.get(above, above)
        return one

    def unite(self, one: _T, other: _T) -> None:
        """Make two sets one, for which stands what stood for the first."""
        first, second = self.of(one), self.of(other)
        if first != second:
            self._above[second] = first


_Node = tuple[str, str]  # an id as `spelled`, and its issuer where several gave it


class People:
    """The patients of all sources: `meet` or `hear` of everybody, then `settle`, then ask.

    Attributes:
        respelled: how many ids are written in several ways.
        joined: how many patients go by several ids.
        suspects: pairs of patients who may be one person.
    """

    def __init__(self) -> None:
        self._headers: dict[Identity, Patient] = {}
        self._met: dict[Identity, bool] = {}
        self._others: list[tuple[Identity, Identity]] = []
        self._aliases: list[list[Identity]] = []
        self._called: dict[Identity, set[tuple[frozenset[str], str]]] = defaultdict(set)
        self._issuers: dict[str, list[str]] = {}  # of the ids that several gave
        self._names: dict[_Node, str] = {}  # by what stands for the group
        self._decided: set[_Node] = set()  # groups that the crosswalk names
        self._groups = _Groups[_Node]()
        self._units = _Groups[str]()
        self.respelled = self.joined = 0
        self.suspects: list[tuple[str, str]] = []

    def meet(
        self, identity: Identity, others: Iterable[Identity] = (), name: str = "", birth: str = ""
    ) -> Patient:
        """Somebody whom a header names, with further ids of the same person; returns what is known of them."""
        self._others += [(identity, other) for other in others if not is_no_id(other.id)]
        self.hear([identity], name, birth)
        return self._headers.setdefault(identity, Patient())

    def hear(self, several: Sequence[Identity], name: str = "", birth: str = "") -> None:
        """Somebody whom a table, document or resource names by one id or by several.

        Of several, those are one that headers or tables know alone: others may be numbers of a family's insurance.
        """
        words = frozenset(re.findall(r"[^\W_]+", _bare(name)))  # a number tells made-up names apart
        for identity in several:
            self._met[identity] = self._met.get(identity, False) or len(several) == 1
            if len(words) > 1 and len(birth) == 8 and birth not in _NO_BIRTH:
                self._called[identity].add((words, birth))
        if len(several) > 1:
            self._aliases.append([one for one in several if not is_no_id(one.id)])

    def settle(self, crosswalk: Mapping[Identity, str]) -> dict[str, Patient]:
        """Decide who is one; returns what headers say of each patient.

        Args:
            crosswalk: ids, and the person that each stands for.

        Raises:
            ConfigError: the crosswalk names an id of several issuers without one.
        """
        issuers: dict[str, set[str]] = defaultdict(set)
        for one in [*self._met, *crosswalk]:
            issuers[spelled(one.id)] |= {_issuer(one)} - {""}
        self._issuers = {known: sorted(names) for known, names in issuers.items() if len(names) > 1}
        if any(spelled(one.id) in self._issuers and not one.issuer for one in crosswalk):
            raise ConfigError("crosswalk: an id that several issuers gave has no issuer; add a column issuer")
        self._name()
        self._obey(crosswalk)
        for identity, other in self._others:
            self._same(self._node(identity), self._node(other))
        alone = {self._node(one) for one, told in self._met.items() if told}
        for several in self._aliases:
            first, *rest = [node for one in several if (node := self._node(one)) in alone] or [("", "")]
            for node in rest:
                self._same(first, node)
        sizes = Counter(self._groups.of(node) for node in {self._node(one) for one in self._met})
        self.joined = sum(size > 1 for size in sizes.values())
        patients: dict[str, Patient] = defaultdict(Patient)
        for identity, known in self._headers.items():
            patients[self.patient(identity)].learn(known)
        self._suspect(set(crosswalk.values()))
        return patients

    def _name(self) -> None:
        """Name each id as the headers write it, else as other sources do; of several ways, the first in order.

        A patient whose id has one spelling keeps the name that earlier versions gave, and so the ledger's account.
        """
        ways: dict[_Node, set[str]] = defaultdict(set)
        for headers in (True, False):
            told: dict[_Node, set[str]] = defaultdict(set)
            for one in self._met:
                if (one in self._headers) == headers:
                    told[self._node(one)].add(one.id.strip())
            for node, ids in told.items():
                self._names.setdefault(node, f"{min(ids)}\0{node[1]}" if node[1] else min(ids))
                ways[node] |= ids
        self.respelled = sum(len(ids) > 1 for ids in ways.values())

    def _obey(self, crosswalk: Mapping[Identity, str]) -> None:
        first: dict[str, _Node] = {}
        for one, person in crosswalk.items():
            self._groups.unite(first.setdefault(person, self._node(one)), self._node(one))
        for person, node in first.items():
            self._names[self._groups.of(node)] = person
        self._decided = {self._groups.of(node) for node in first.values()}

    def _same(self, one: _Node, other: _Node) -> None:
        """Unite two ids, unless the crosswalk gives them to two persons; the crosswalk's name stands, or the first."""
        roots = {self._groups.of(one), self._groups.of(other)}
        decided = roots & self._decided
        if len(decided) > 1:
            return
        names = [self._names[root] for root in decided or roots if root in self._names]
        self._groups.unite(one, other)
        root = self._groups.of(one)
        if names:
            self._names[root] = min(names)
        if decided:
            self._decided.add(root)

    def _suspect(self, decided: set[str]) -> None:
        alike: dict[tuple[frozenset[str], str], set[str]] = defaultdict(set)
        for identity, called in self._called.items():
            for one in called:
                alike[one] |= set(self.patients(identity.id, identity.issuer)) - {""}
        for patients in alike.values():
            first, *rest = sorted(patients) or [""]
            for other in rest:
                if not {first, other} <= decided:
                    self.suspects.append((first, other))
                    self._units.unite(*sorted((self._units.of(first), self._units.of(other))))

    def _node(self, identity: Identity) -> _Node:
        known = spelled(identity.id)
        return known, _issuer(identity) if known in self._issuers else ""

    def patients(self, identifier: str, issuer: str = "") -> tuple[str, ...]:
        """The patients whom an id may stand for: one, or several where it has several issuers; "" if it is no id."""
        if is_no_id(identifier):
            return ("",)
        node = self._node(Identity(identifier, issuer))
        if node[0] in self._issuers and not node[1]:
            nodes = [(node[0], one) for one in self._issuers[node[0]]]
        else:
            nodes = [node]
        roots = map(self._groups.of, nodes)
        return tuple(dict.fromkeys(self._names.get(root, identifier.strip()) for root in roots))

    def patient(self, identity: Identity) -> str:
        """The patient of an id; "" if that is nobody, or one of several."""
        found = self.patients(identity.id, identity.issuer)
        return found[0] if len(found) == 1 else ""

    def ids(self) -> dict[str, set[str]]:
        """Unit -> all ids, as sources write them, of whoever is counted as it."""
        found: dict[str, set[str]] = defaultdict(set)
        for identity in self._met:
            for patient in set(self.patients(identity.id, identity.issuer)) - {""}:
                found[self.unit(patient)].add(identity.id)
        return found

    def unit(self, patient: str) -> str:
        """The patient as the ledger counts: one for all who may be one person."""
        return self._units.of(patient)


def _issuer(identity: Identity) -> str:
    return spelled(identity.issuer)


def _bare(name: str) -> str:
    """A name in small letters without accents."""
    apart = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def read_crosswalk(path: Path) -> dict[Identity, str]:
    """Ids and the person that each stands for: a CSV file with the columns ``id``, ``person`` and perhaps ``issuer``.

    Raises `ConfigError` if it cannot be read, or names two persons for one id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(csv.DictReader(file, strict=True)))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); expected CSV with columns id and person"
        ) from error
    found: dict[Identity, str] = {}
    spellings: dict[tuple[str, str], str] = {}
    for number, (identity, person) in enumerate(rows, start=1):
        known = (spelled(identity.id), _issuer(identity))
        if not identity.id or not person:
            raise ConfigError(f"{path} row {number}: expected an id and a person")
        if spellings.setdefault(known, person) != person:
            raise ConfigError(f"{path} row {number}: another row gives its id another person; leave one")
        found[identity] = person
    return found


def _rows(reader: csv.DictReader[str]) -> Iterator[tuple[Identity, str]]:
    if not {"id", "person"} <= set(reader.fieldnames or ()):
        raise ValueError("it lacks a column id or person")
    for row in reader:
        cells = {column: (cell or "").strip() for column, cell in row.items() if column}
        yield Identity(cells["id"], cells.get("issuer", "")), cells["person"]
