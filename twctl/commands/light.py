"""Commands whose parameters stay text: what typer makes of them costs 100 ms."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class LightOption(TyperOption):
    """An option that is a flag, a text, or a list of texts."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        if _is_plain(self, value):
            return _process(self, ctx, value)

        return super().process_value(ctx, value)


class LightArgument(TyperArgument):
    """An argument that is a text or a list of texts, shown as its metavar says."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        del ctx
        return [self._shown]

    def get_help_record(self, ctx: Any) -> tuple[str, str] | None:
        del ctx
        return (self._shown, self.help) if self.help else None

    @property
    def _shown(self) -> str:
        return self.metavar or str(self.name).upper()

    def process_value(self, ctx: Any, value: Any) -> Any:
        if _is_plain(self, value):
            return _process(self, ctx, value)

        return super().process_value(ctx, value)


class LightCommand(TyperCommand):
    """A command of light parameters."""

    def get_params(self, ctx: Any) -> Any:
        return _lighten(super().get_params(ctx))


class LightGroup(TyperGroup):
    """A group of commands with light parameters of its own."""

    def get_params(self, ctx: Any) -> Any:
        return _lighten(super().get_params(ctx))


def _lighten(params: Sequence[object]) -> Sequence[object]:
    # typer makes its parameters itself, and takes no class for them.
    for param in params:
        if type(param) is TyperOption:
            param.__class__ = LightOption
        elif type(param) is TyperArgument:
            param.__class__ = LightArgument

    return params


def _is_plain(param: TyperOption | TyperArgument, value: Any) -> bool:
    return not (param.required and param.value_is_missing(value))


def _process(param: TyperOption | TyperArgument, ctx: Any, value: Any) -> Any:
    if param.multiple or param.nargs == -1:
        value = list(value or ())

    return value if param.callback is None else param.callback(ctx, param, value)
