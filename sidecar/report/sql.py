"""Expressions of ibis as SQL, written once: that takes longer than DuckDB needs for small ones."""

import functools
from typing import Literal

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir

Dialect = Literal["duckdb", "pyspark"]


def sql_of(table: ir.Table, dialect: Dialect) -> str:
    """Return the SQL of an expression."""
    return _compiled(table.op(), dialect)


@functools.lru_cache(maxsize=64)
def _compiled(operation: ops.Relation, dialect: Dialect) -> str:
    return str(ibis.to_sql(operation.to_expr(), dialect=dialect))
