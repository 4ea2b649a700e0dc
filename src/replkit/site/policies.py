"""Policies as people write them: fields by name, sizes with units."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from replkit.errors import InvalidArgumentError
from replkit.replication.policy import Policy
from replkit.site.sizes import parse_size

_TYPES = get_type_hints(Policy)
_KINDS = {int: "a whole number", float: "a number of seconds"}


def policy_changes(fields: Mapping[str, object]) -> dict[str, object]:
    """Fields of a policy with sizes turned into bytes; ``InvalidArgumentError`` with all that is wrong with them."""
    faults = policy_faults(fields)
    if faults:
        unknown = any(name not in _TYPES for name, _ in faults)
        raise InvalidArgumentError(
            f"policy: {'; '.join(what for _, what in faults)}",
            hint=f"fields: {', '.join(sorted(_TYPES))}" if unknown else "nothing was changed",
        )
    return {name: _value(name, value) for name, value in fields.items()}


def policy_faults(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    """What is wrong with each field, as ``(field, sentence)``; one fault hides no other."""
    return [(name, fault) for name, value in fields.items() if (fault := _fault(name, value))]


def _value(name: str, value: object) -> object:
    return parse_size(value) if name.endswith("_bytes") else value  # type: ignore[arg-type]  # refuses what is neither


def _fault(name: str, value: object) -> str:
    """Empty when the field may have this value."""
    if name not in _TYPES:
        return f"there is no field {name}"
    kind = _TYPES[name]
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return "" if value in allowed else f"{name} is {value!r}, must be one of: {', '.join(map(str, allowed))}"
    if isinstance(value, float) and not isfinite(value):
        return f"{name} is {value}, must be a number with an end"
    try:
        msgspec.convert({name: _value(name, value)}, Policy)
    except msgspec.ValidationError:
        return f"{name} is {value!r}, must be {_KINDS.get(kind, 'of another type')}"
    except InvalidArgumentError as error:  # out of its range, or no size
        return f"{error.message.removeprefix('policy: ')}" if name in error.message else f"{name}: {error}"
    return ""
