"""DuckDB runs the expressions: embedded, on one machine, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.sql.datatypes import DuckDBType

from sidecar.report.sql import sql_of
from sidecar.report.staging import quoted_text, read_sql

BATCH_ROWS = 64 * 1024


@dataclass(slots=True)
class DuckDBEngine:
    """Runs on a dataset's own connection, which keeps within its limits."""

    connection: duckdb.DuckDBPyConnection
    _made: dict[str, str] = field(default_factory=dict)
    _paths: list[Path] = field(default_factory=list)
    _number: int = 0

    def scanned(self, name: str, paths: Sequence[Path], columns: Mapping[str, str]) -> ir.Table:
        """Return files of Parquet as a table of these columns (ibis types by name)."""
        kinds = {column: DuckDBType.to_string(ibis.dtype(kind)) for column, kind in columns.items()}
        return self._new("VIEW", name, read_sql(paths, kinds), columns)

    def stored(self, name: str, table: ir.Table) -> ir.Table:
        """Run an expression and keep what it gives, on disk: tables in memory would fill it."""
        self._number += 1
        path = self._directory() / f"{name}-{self._number}.parquet"
        self._copy(table, path, "lz4")
        columns = {column: str(kind) for column, kind in table.schema().items()}
        self._paths.append(path)
        return self.scanned(name, [path], columns)

    def loaded(self, name: str, rows: pa.Table, columns: Mapping[str, str]) -> ir.Table:
        """Make a table of rows from Python."""
        self.connection.register("given_rows", rows)
        try:
            listed = ", ".join(f'"{column}"' for column in columns)
            return self._new("TABLE", name, f"SELECT {listed} FROM given_rows", columns)  # noqa: S608
        finally:
            self.connection.unregister("given_rows")

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Run an expression and yield its rows, in its order."""
        # A cursor of its own: the caller may run others before it has seen all rows.
        with self.connection.cursor() as cursor:
            yield from cursor.sql(sql_of(table, "duckdb")).to_arrow_reader(BATCH_ROWS)

    def write(self, table: ir.Table, path: Path) -> None:
        """Run an expression and write its rows to a file of Parquet, in its order."""
        self._copy(table, path, "zstd")

    def close(self) -> None:
        """Drop what was made."""
        for name, kind in self._made.items():
            self.connection.execute(f'DROP {kind} IF EXISTS "{name}"')
        self._made.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    def _copy(self, table: ir.Table, path: Path, compression: str) -> None:
        sql = sql_of(table, "duckdb")
        self.connection.execute(
            f"COPY ({sql}) TO {quoted_text(path)} (FORMAT parquet, COMPRESSION {compression})"
        )

    def _directory(self) -> Path:
        """Return where the dataset lies on this machine: where DuckDB may spill to."""
        ((spilled,),) = self.connection.sql("SELECT current_setting('temp_directory')").fetchall()
        return Path(spilled).parent

    def _new(self, kind: str, name: str, query: str, columns: Mapping[str, str]) -> ir.Table:
        self.connection.execute(f'CREATE OR REPLACE {kind} "{name}" AS {query}')
        self._made[name] = kind
        return ibis.table(dict(columns), name=name)
