"""What the sections of a configuration are made of, how a part comes in kinds, and how a section is composed.

A part such as the fusion is one of several kinds. Each kind is a section of its own, so that a key belongs to the
kind that reads it. The kinds of a part are in one `Kinds`, and a configuration looks a kind up there when it is
validated: what was registered by then is valid. Nothing here imports torch; a kind names its code by a dotted path,
which is imported when the kind is used. A `Composed` section has the keys of several sections, which a registry names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from types import new_class
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, Self, TypeVar, cast

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
S = TypeVar("S", bound="Section")

Positive = PositiveInt
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def later(default: Any, **field: Any) -> Any:
    """A field that is no part of a section's digest while it has its default: it came after digests were in use."""
    return Field(default, json_schema_extra={"later": True}, **field)


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
        """A copy with other values, which are not validated; mappings in `update` are frozen. As in pydantic."""
        frozen = {k: FrozenDict(v) if type(v) is dict else v for k, v in (update or {}).items()}
        return super().model_copy(update=frozen, deep=deep)

    def digested(self) -> dict[str, Any]:
        """The section as JSON values, without keys that are `later` and have their default."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section):
                values[name] = value.digested()
            elif field.json_schema_extra == {"later": True} and value == field.default:
                del values[name]
        return values


class Composed(Section):
    """A section with keys of its own and those of further sections, which a registry names.

    A subclass has its own keys, and `further`. What is made of it is an instance of `whole`, which has all keys.
    """

    _composes: ClassVar[type[Composed] | None] = None  # the section that a whole one is made from

    if TYPE_CHECKING:  # it takes the keys of further sections as well

        def __init__(self, **values: Any) -> None: ...

    def __new__(cls, *_: object, **__: object) -> Self:
        return super().__new__(cls.whole())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._composes, self.__dict__)

    @classmethod
    def further(cls) -> tuple[type[Section], ...]:
        """The further sections that are registered now. No two may have the name of a key or a validator in common."""
        raise NotImplementedError

    def of(self, keys: type[S]) -> S:
        """This section as one of the further sections that it is composed of, so that a type checker knows its keys.

        Raises:
            TypeError: it is not composed of that section.
        """
        if not isinstance(self, keys):
            names = ", ".join(one.__name__ for one in self.further())
            raise TypeError(f"{type(self).__name__} is composed of {names}. Found {keys.__name__}")
        return self

    @classmethod
    def whole(cls) -> type[Self]:
        """This section with the keys of all further ones, its own first."""
        return cls if cls._composes else cast(type[Self], _composed(cls, cls.further()))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls._composes:
            return handler(source)

        def read(given: object) -> Composed:
            if isinstance(given, cls) and type(given) is not cls.whole():
                given = dict(given)  # made before something was registered
            return cls.whole().model_validate(given)

        return core_schema.no_info_plain_validator_function(read)


@lru_cache
def _composed(own: type[Composed], further: tuple[type[Section], ...]) -> type[Composed]:
    bases = (*reversed(further), own)  # pydantic orders the keys from the last base to the first
    names = {
        "__module__": own.__module__,
        "__doc__": own.__doc__,
        "__annotations__": {"_composes": ClassVar[type[Composed] | None]},
        "_composes": own,
    }
    return cast(type[Composed], new_class(own.__name__, bases, exec_body=lambda body: body.update(names)))


def _restored(own: type[Composed], values: dict[str, Any]) -> Composed:
    """A pickled section, made anew: its class, which has all keys, cannot be imported by a name."""
    return own.whole().model_construct(**values)


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
