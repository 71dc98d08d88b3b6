"""What `tune` measured: a table, a plot and the settings to use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splade_retriever.errors import InputError, MissingExtraError, StorageError
from splade_retriever.index.options import Datatype, Mode, Windows

__all__ = ["HybridRow", "TuneReport", "TuneRow", "check_plot"]


@dataclass(frozen=True)
class TuneRow:
    """One combination of settings."""

    max_active_dims: int | None
    query_max_active_dims: int | None
    datatype: Datatype
    windows: Windows
    """How texts are treated that are longer than the model reads."""
    ndcg_at_10: float
    difference: float
    """nDCG@10 minus that of the first row, which prunes nothing and reads long texts completely."""
    low: float
    """Lower end of the 95 % interval of the difference, by a paired bootstrap over the queries."""
    high: float
    index_bytes: int
    """Size of the closed index folder on disk, texts included."""
    search_ms: float
    """Median time to find the best 10 documents for an encoded query."""
    on_front: bool = False
    """No other row is at least as good in quality, size and time, and better in one."""


@dataclass(frozen=True)
class HybridRow:
    """One way to join the chosen sparse vectors with a second model or a dense encoder."""

    mode: Mode
    weights: tuple[float, float] | tuple[float, float, float] | None
    """Weights of the rankings in RRF, in the order sparse, second, dense; None for one of them alone."""
    ndcg_at_10: float
    difference: float
    """nDCG@10 minus that of sparse vectors alone."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    search_ms: float
    """Median time of a search, with the encoding of the query."""

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.mode if self.weights is None else " : ".join(f"{weight:g}" for weight in self.weights)


@dataclass(frozen=True)
class TuneReport:
    """All combinations, and the one to use."""

    collection: str
    documents: int
    queries: int
    made_from_headings: bool
    """The queries are headings of the documents, not judged by people."""
    max_loss: float
    rows: tuple[TuneRow, ...]
    choice: TuneRow
    """The smallest row whose loss is at most `max_loss`, also at the lower end of its interval."""
    hybrid: tuple[HybridRow, ...] = ()
    """Each ranking alone, and all with each weights, for the chosen row; empty without another encoder."""
    hybrid_choice: HybridRow | None = None
    """The row with the largest gain that is certain, else sparse vectors alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def index_settings(self) -> dict[str, Any]:
        """Return the chosen settings as arguments of `SpladeIndex`."""
        chosen = self.choice
        settings = {
            "max_active_dims": chosen.max_active_dims,
            "query_max_active_dims": chosen.query_max_active_dims,
            "datatype": None if chosen.datatype == "float32" else chosen.datatype,
            "windows": chosen.windows if len({row.windows for row in self.rows}) > 1 else None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def search_settings(self) -> dict[str, Any]:
        """Return the chosen mode and fusion as fields of a configuration; empty without another encoder."""
        row = self.hybrid_choice
        if row is None:
            return {}
        fusion = {} if row.weights is None else {"fusion": {"method": "rrf", "weights": list(row.weights)}}
        return {"mode": row.mode, **fusion}

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        source = "made from headings, not judged by people" if self.made_from_headings else "judged"
        lines = [
            f"**{self.collection}**: documents {self.documents:,}, queries {self.queries:,} ({source})",
            "",
            "| document dims | query dims | datatype | windows | nDCG@10 | difference (95 %) | index | "
            "search | |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            mark = "chosen" if row == self.choice else "front" if row.on_front else ""
            lines.append(
                f"| {row.max_active_dims or 'all'} | {row.query_max_active_dims or 'all'} | {row.datatype} | "
                f"{row.windows} | {row.ndcg_at_10:.4f} | "
                f"{row.difference:+.4f} ({row.low:+.4f}..{row.high:+.4f}) | "
                f"{row.index_bytes / 1e6:.1f} MB | {row.search_ms:.1f} ms | {mark} |"
            )
        lines += [
            "",
            f"- chosen: the smallest index that loses at most {self.max_loss} with 97.5 % certainty",
            *self._hybrid_lines(),
        ]
        return "\n".join(lines)

    def _hybrid_lines(self) -> list[str]:
        if not self.hybrid:
            return []
        heading = " : ".join(row.mode for row in self.hybrid if row.weights is None)
        return [
            "",
            f"| {heading} | nDCG@10 | difference to sparse (95 %) | search with encoding | |",
            "|---|---|---|---|---|",
            *(
                f"| {row.label} | {row.ndcg_at_10:.4f} | "
                f"{row.difference:+.4f} ({row.low:+.4f}..{row.high:+.4f}) | {row.search_ms:.1f} ms | "
                f"{'chosen' if row == self.hybrid_choice else ''} |"
                for row in self.hybrid
            ),
            "",
            "- chosen: the largest gain at the lower end of its interval; sparse alone if none is above 0",
        ]

    def plot(self, path: str | Path) -> None:
        """Draw quality against size and against time, as PNG or SVG by the file's extension.

        Raises:
            InputError: If the file does not end in .png or .svg.
            MissingExtraError: If matplotlib is not installed.
            StorageError: If the file cannot be written.
        """
        check_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        sizes = [row.index_bytes / 1e6 for row in self.rows]
        times = [row.search_ms for row in self.rows]
        for axes, values, label in zip(
            figure.subplots(1, 2, sharey=True), (sizes, times), ("index, MB", "search, ms"), strict=True
        ):
            front = sorted(
                (value, row.ndcg_at_10) for row, value in zip(self.rows, values, strict=True) if row.on_front
            )
            axes.plot(*zip(*front, strict=True), color="C0", linewidth=1, zorder=0)
            for row, value in zip(self.rows, values, strict=True):
                errors = [[row.difference - row.low], [row.high - row.difference]]
                colour = "C3" if row == self.choice else "C0" if row.on_front else "0.6"
                axes.errorbar(value, row.ndcg_at_10, yerr=errors, fmt="o", color=colour)
            axes.set_xlabel(label)
            axes.set_ylabel("nDCG@10")
        figure.suptitle(f"{self.collection}: chosen red, Pareto front blue; bars: 95 % of the difference")
        try:
            figure.savefig(path)
        except OSError as error:
            raise StorageError(
                f"The plot {str(path)!r} cannot be written: {error.strerror or error}. Name a file in a "
                f"folder that exists and can be written."
            ) from error


def check_plot(path: str | Path) -> None:
    """Check that a plot can be drawn, before anything is measured.

    Raises:
        InputError: If the file does not end in .png or .svg.
        MissingExtraError: If matplotlib is not installed.
        StorageError: If its folder does not exist.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise InputError(f"The plot's file is {str(path)!r}, expected a name that ends in .png or .svg.")
    folder = Path(path).parent
    if not folder.is_dir():
        raise StorageError(
            f"The plot {str(path)!r} cannot be written: there is no folder {str(folder)!r}. Create it, or "
            f"name another file."
        )
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'The plot needs matplotlib. Run: pip install "splade-retriever[plot]"'
        ) from error
