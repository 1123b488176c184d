"""What the sections of a configuration are made of, and how a part comes in kinds.

A part such as the fusion is one of several kinds. Each kind is a section of its own, so that a key belongs to the
kind that reads it. The kinds of a part are in one `Kinds`, and a configuration looks a kind up there when it is
validated: what was registered by then is valid. Nothing here imports torch; a kind names its code by a dotted path,
which is imported when the kind is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PositiveInt,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from mmmed.errors import ConfigError

K = TypeVar("K")
V = TypeVar("V")

Positive = PositiveInt
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FrozenDict(dict[K, V]):
    """A mapping that cannot be changed, and so can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type, tuple[dict[K, V]]]:
        return type(self), (dict(self),)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a configuration cannot be changed: make another one")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


FrozenTable = Annotated[dict[str, V], AfterValidator(FrozenDict)]


class Section(BaseModel):
    """A section of a configuration: it cannot be changed, and a key that it lacks is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As `BaseModel.model_copy`, which checks no value; mappings in `update` are frozen."""
        frozen = {k: FrozenDict(v) if type(v) is dict else v for k, v in (update or {}).items()}
        return super().model_copy(update=frozen, deep=deep)


class Kind(Section):
    """The section of one kind of a part.

    A kind sets ``kind`` to its name, ``kind: Literal["name"] = "name"``, and gives every other key a default.

    Attributes:
        implementation: "module:name" of the code of this kind.
    """

    implementation: ClassVar[str] = ""

    kind: str

    def load(self) -> Any:
        """The code of this kind; its module is imported now.

        Raises:
            ConfigError: the section names no code.
        """
        if not self.implementation:
            raise ConfigError(
                f"{self.kind!r} names no code: {type(self).__name__}.implementation must be 'module:name'"
            )
        module, _, name = self.implementation.partition(":")
        return getattr(import_module(module), name)

    def options(self) -> dict[str, Any]:
        """The keys of this kind and their values, without ``kind``."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "kind"}

    def check_run(self, run: Any) -> None:
        """Check that the rest of the run suits this kind.

        Args:
            run: the whole `mmmed.config.RunConfig`.

        Raises:
            ValueError: it does not; the keys are named.
        """


class Kinds:
    """The registry of one part: its kinds by name. It annotates the part's field: ``Annotated[Fusion, FUSIONS]``.

    Args:
        kinds: sections of the kinds; the first is the default.
    """

    def __init__(self, *kinds: type[Kind]) -> None:
        self.sections = {kind.model_fields["kind"].default: kind for kind in kinds}
        self._default = kinds[0]

    def of(self, name: object) -> type[Kind]:
        """The section of the kind of this name; the default's if there is none."""
        return self.sections.get(name, self._default) if isinstance(name, str) else self._default

    def read(self, given: object) -> Kind:
        """A kind from what a configuration says of the part.

        Args:
            given: a table that may name its ``kind`` and the keys of that kind, or the section itself.

        Raises:
            ValueError: no such kind, a key that the kind lacks, or a wrong value.
        """
        if isinstance(given, Kind) and type(given) in self.sections.values():
            return given
        if not isinstance(given, Mapping):
            raise ValueError("expected a table with a kind")
        name = given.get("kind", self._default.model_fields["kind"].default)
        if not isinstance(name, str) or name not in self.sections:
            expected = {"expected": " or ".join(map(repr, self.sections))}
            details = InitErrorDetails(type="literal_error", loc=("kind",), input=name, ctx=expected)
            raise ValidationError.from_exception_data("kind", [details])
        return self.sections[name].model_validate(dict(given))

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)


def kinds_of(field: FieldInfo) -> Kinds | None:
    """The registry of the part that a section's field holds, or None if it comes in no kinds."""
    return next((one for one in field.metadata if isinstance(one, Kinds)), None)
