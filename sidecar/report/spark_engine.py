"""Spark runs the expressions, where one machine is outgrown. Needs the extra 'spark' and Java 17.

It reads the same Parquet, so where it is a cluster the dataset's directory must be one that all its
machines see. Given no session, it starts one of this machine.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from sidecar.report.sql import sql_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import DataType

LOCAL: Final[Mapping[str, str]] = {
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.showConsoleProgress": "false",
}
"""A session on one machine, which listens nowhere else."""

ON_A_CLUSTER: Final[Mapping[str, str]] = {"spark.ui.showConsoleProgress": "false"}
"""Where Spark listens, and how it shares its work out, is the cluster's matter."""

ALWAYS: Final[Mapping[str, str]] = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
}


def spark_session(memory_mib: int, master: str = "local[*]") -> "SparkSession":
    """Start Spark, on this machine or as the driver of a cluster.

    Raises pyspark's errors where there is no Java, or the master does not answer.
    """
    from pyspark.sql import SparkSession  # noqa: PLC0415

    builder = SparkSession.builder.master(master).appName("emissions-sidecar report")
    for name, value in (LOCAL if master.startswith("local") else ON_A_CLUSTER).items():
        builder = builder.config(name, value)
    return builder.config("spark.driver.memory", f"{memory_mib}m").getOrCreate()


@dataclass(slots=True)
class SparkEngine:
    """Runs on a session; what is kept lies in `directory`, as Parquet."""

    session: "SparkSession"
    directory: Path
    _made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _register_dialect()
        for name, value in ALWAYS.items():
            self.session.conf.set(name, value)

    def scanned(self, name: str, paths: Sequence[Path], columns: Mapping[str, str]) -> ir.Table:
        """Return files of Parquet as a table of these columns (ibis types by name)."""
        from pyspark.sql import functions  # noqa: PLC0415

        reader = self.session.read.option("mergeSchema", "true")
        frame = reader.parquet(*(path.absolute().as_uri() for path in paths))
        # Files of an earlier version lack the columns that came later.
        selected = [
            functions.col(column)
            if column in frame.columns
            else functions.lit(None).cast(_spark_type(kind)).alias(column)
            for column, kind in columns.items()
        ]
        frame.select(*selected).createOrReplaceTempView(name)
        self._made.append(name)
        return ibis.table(dict(columns), name=name)

    def stored(self, name: str, table: ir.Table) -> ir.Table:
        """Run an expression and keep what it gives."""
        path = self._path(name)
        self.session.sql(sql_of(table, "pyspark")).write.parquet(path.absolute().as_uri())
        columns = {column: str(kind) for column, kind in table.schema().items()}
        return self.scanned(name, [path], columns)

    def loaded(self, name: str, rows: pa.Table, columns: Mapping[str, str]) -> ir.Table:
        """Make a table of rows from Python."""
        path = self._path(name)
        path.mkdir()
        pq.write_table(rows, path / "rows.parquet")
        return self.scanned(name, [path], columns)

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Run an expression and yield its rows, in its order."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = self.session.sql(sql_of(table, "pyspark")).toArrow()
        yield from rows.to_batches()

    def write(self, table: ir.Table, path: Path) -> None:
        """Run an expression and write its rows into a directory made there, in its order."""
        self.session.sql(sql_of(table, "pyspark")).coalesce(1).write.parquet(
            path.absolute().as_uri()
        )

    def close(self) -> None:
        """Forget what was made; the session is its owner's."""
        for name in self._made:
            self.session.catalog.dropTempView(name)
        self._made.clear()

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}-{os.urandom(4).hex()}"


def _spark_type(kind: str) -> "DataType":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, as below
        from ibis.backends.pyspark.datatypes import PySparkType  # noqa: PLC0415

    made: DataType = PySparkType.from_ibis(ibis.dtype(kind))
    return made


def _register_dialect() -> None:
    """Let ibis know its options for Spark, which come with the backend that is not used else."""
    with warnings.catch_warnings():
        # pyspark warns of pandas 3, which nothing here uses.
        warnings.simplefilter("ignore")
        _ = ibis.pyspark
