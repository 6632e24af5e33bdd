"""The options of a configuration as text: the docstring under each field is its help."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def options_of(model: type[BaseModel], prefix: str = "--") -> str:
    """Every option of a model and of the models below it, each union member under a heading of its own."""
    lines, below = [], []
    for name, field in model.model_fields.items():
        members = models_in(field.annotation)
        if members:
            below += [(f"{prefix}{name}.", member) for member in members]
        else:
            lines.append(f"  {prefix}{name} {_kind(field)}\n      {field.description}{_default(field)}")
    heading = (model.__doc__ or model.__name__).strip()
    return "\n\n".join([f"{heading}\n" + "\n".join(lines), *(options_of(member, start) for start, member in below)])


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models an annotation stands for: itself, or the members of a union."""
    if get_origin(annotation) is Annotated:
        return models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in models_in(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _kind(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(map(str, get_args(field.annotation))) + "}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{signs[key]} {getattr(item, key)}" for item in field.metadata for key in signs if hasattr(item, key)]
    name = getattr(field.annotation, "__name__", str(field.annotation)).upper()
    return name + (f" [{', '.join(limits)}]" if limits else "")


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() else f" (default: {field.default})"
