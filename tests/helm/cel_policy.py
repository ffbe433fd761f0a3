"""Runs the chart's MutatingAdmissionPolicy on a real CEL engine, without an API server.

The engine is the C++ one, and knows neither Kubernetes' functions nor its object types. So the
functions used are given here, and typed literals (`Object.spec.initContainers{name: …}`) are read as
maps; on the way it is checked that each literal's type is the path of where it stands, as the API
server does, and that lists are of one type, as far as can be told. What differs there still: values
are decoded strictly into a Pod (the tests validate the result against the schema instead), and lists
of objects as a patch's whole value fail.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings

from sidecar.injector.pod_requests import exact_quantity

_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"|(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)|(?P<blank>\s+)|(?P<sign>.)",
    re.DOTALL,
)


@dataclass
class _Literal:
    """An open `{`: its type, empty for a plain map, and the field being given."""

    type_name: str
    field: str = ""


class MixedListError(AssertionError):
    """A list holds a text beside a value of unknown type; the API server's compiler refuses it."""


class TypeNameError(AssertionError):
    """A typed literal does not stand where its type says; the API server would refuse the pod."""


def plain(expression: str) -> str:
    """The expression with maps instead of typed literals. Raises TypeNameError."""
    tokens = [match for match in _TOKEN.finditer(expression) if match.lastgroup != "blank"]
    written: list[str] = []
    still_open: list[_Literal] = []
    end = 0
    for before, token, after in zip(
        [None, *tokens], tokens, [*(match.group() for match in tokens[1:]), ""], strict=False
    ):
        text = token.group()
        written.append(expression[end : token.start()])
        end = token.end()
        if token.lastgroup == "path" and after == "{":
            _check_type(text, still_open)
            still_open.append(_Literal(text))
            continue
        if text == "{" and (before is None or before.lastgroup != "path"):
            still_open.append(_Literal(""))
        elif text == "}":
            still_open.pop()
        elif token.lastgroup == "path" and after == ":" and before and before.group() in "{,":
            still_open[-1].field = text
            text = f'"{text}"'
        written.append(text)
    return "".join(written)


def _check_type(name: str, still_open: Sequence[_Literal]) -> None:
    outer = still_open[-1] if still_open else None
    if name == "JSONPatch" or outer is None or outer.type_name == "JSONPatch":
        if name != "JSONPatch" and not name.startswith("Object."):
            raise TypeNameError(f"{name} is no type")
    elif name != f"{outer.type_name}.{outer.field}":
        raise TypeNameError(f"{name} stands at {outer.type_name}.{outer.field}")


def check_lists(expression: str) -> None:
    """Look for lists such as `[k, string(v)]`, which the engine here takes. Raises MixedListError."""
    tokens = [match for match in _TOKEN.finditer(expression) if match.lastgroup != "blank"]
    still_open: list[list[list[str]] | None] = []
    before = ""
    for token in tokens:
        text, kind = token.group(), token.lastgroup
        if text in "])}" and still_open and (elements := still_open.pop()) is not None:
            found = {_is_text(element) for element in elements if element}
            if len(found) > 1:
                raise MixedListError(f"{elements} in {expression}")
        for elements in still_open:
            if elements is not None:
                elements[-1].append(text)
        if text == "," and still_open and (innermost := still_open[-1]) is not None:
            innermost[-1].pop()
            innermost.append([])
        if text in ("[", "(", "{"):
            is_list = text == "[" and (not before or before in "([{,:?=&|+-*/!<>")
            still_open.append([[]] if is_list else None)
        before = text if kind == "sign" else "a value"


def _is_text(element: Sequence[str]) -> bool:
    """Whether the compiler knows it to be a text: a literal, or `string(…)`."""
    return (len(element) == 1 and element[0][0] in "\"'") or list(element[:2]) == ["string", "("]


class Policy:
    """A MutatingAdmissionPolicy document, ready to be asked about pods."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        spec = document["spec"]
        (mutation,) = spec["mutations"]
        for one in (*spec["variables"], mutation["jsonPatch"]):
            check_lists(one["expression"])
        self._conditions = [_compiled(one["expression"]) for one in spec["matchConditions"]]
        self._variables = {
            one["name"]: _compiled(plain(one["expression"])) for one in spec["variables"]
        }
        self._patch = _compiled(plain(mutation["jsonPatch"]["expression"]))

    def operations(
        self, pod: Mapping[str, Any], namespace_labels: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """The JSON Patch for a pod; empty where the policy does not match."""
        known: dict[str, Any] = {
            "object": pod,
            "namespaceObject": {"metadata": {"labels": dict(namespace_labels)}},
            "variables": {},
        }
        if not all(_value(condition, known) for condition in self._conditions):
            return []
        for name, variable in self._variables.items():
            known["variables"] = {**known["variables"], name: _value(variable, known)}
        operations: list[dict[str, Any]] = _value(self._patch, known)
        return operations


def holds(condition: str, pod: Mapping[str, Any]) -> bool:
    """Whether a matchCondition of a webhook holds for a pod."""
    return bool(_value(_compiled(condition), {"object": pod}))


def _compiled(expression: str) -> cel.Expression:
    return _environment().compile(expression)


def _value(expression: cel.Expression, known: Mapping[str, Any]) -> Any:
    result = expression.eval(data=dict(known))
    assert result.type() not in (cel.Type.ERROR, cel.Type.UNKNOWN), result.plain_value()
    return result.plain_value()


@functools.cache
def _environment() -> cel.Env:
    kind = cel.Type
    return cel.NewEnv(
        variables=dict.fromkeys(("object", "namespaceObject", "variables"), kind.DYN),
        extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional()],
        functions=[
            _function("quantity", kind.STRING, kind.STRING, str),
            _function("isInteger", kind.STRING, kind.BOOL, _is_integer, is_member=True),
            _function("asInteger", kind.STRING, kind.INT, _as_integer, is_member=True),
            _function("asApproximateFloat", kind.STRING, kind.DOUBLE, _as_float, is_member=True),
            _function("sum", kind.List(kind.DYN), kind.INT, sum, is_member=True),
            _function("max", kind.List(kind.DYN), kind.INT, max, is_member=True),
        ],
    )


def _function(
    name: str, parameter: cel.Type, returned: cel.Type, impl: Any, *, is_member: bool = False
) -> cel.FunctionDecl:
    return cel.FunctionDecl(name, [cel.Overload(name, returned, [parameter], is_member, impl)])


def _is_integer(quantity: str) -> bool:
    return exact_quantity(quantity).denominator == 1


def _as_integer(quantity: str) -> int:
    value = exact_quantity(quantity)
    assert value.denominator == 1, f"{quantity} is no whole number; the API server would fail"
    return math.floor(value)


def _as_float(quantity: str) -> float:
    return float(exact_quantity(quantity))
