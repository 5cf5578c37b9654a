"""The terminal of `aiotq top`: tabs with tables, a filter, and keys that act on the row under the cursor."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from ..app import AioTQ
from ..commands.output import printable
from ..exceptions import AioTQError
from .cluster import Cluster
from .details import details
from .screens import Details, Question
from .tables import TABLES, Row, Table, summary

#: Characters of a cell that are shown.
_WIDEST: Final = 80


class Top(App[None]):
    """The view of one app, which is connected; it ends with `q`."""

    TITLE = "aiotq top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { width: 1fr; height: 1; padding: 0 1; background: $panel; }
    #problems { width: 1fr; height: auto; padding: 0 1; color: $error; display: none; }
    #problems.shown { display: block; }
    #tabs { height: 1fr; }
    #filter { display: none; }
    #filter.shown { display: block; }
    DataTable { height: 1fr; }
    Details, Question { align: center middle; }
    #box { width: 90%; height: 80%; border: round $accent; padding: 0 1; background: $surface; }
    #question { width: auto; height: auto; border: round $warning; padding: 1 2; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "no_filter", "No filter", show=False),
        *(
            Binding(str(number), f"tab('{table.name}')", table.title, show=False)
            for number, table in enumerate(TABLES, 1)
        ),
        Binding("enter", "details", "Details", show=False),
        Binding("v", "revoke", "Revoke"),
        Binding("x", "terminate", "Terminate"),
        Binding("r", "retry", "Retry"),
        Binding("p", "pause", "Pause/resume"),
        Binding("f", "fire", "Fire"),
    ]

    def __init__(self, app: AioTQ, *, every: float = 1.0) -> None:
        super().__init__()
        self.cluster = Cluster(app)
        self._every = every
        self._wanted = ""
        self._rows: dict[str, Sequence[Row]] = {}

    def compose(self) -> ComposeResult:
        # Kept here: what is asked for by name is looked for in the screen on top, which may be another one.
        self._summary = Static(id="summary", markup=False)
        self._problems = Static(id="problems", markup=False)
        self._tabs = TabbedContent(id="tabs")
        self._widgets = {each.name: _new_table(each) for each in TABLES}
        self._filter = Input(id="filter", placeholder="show rows with this (Enter: keep it, Escape: all rows)")
        yield self._summary
        yield self._problems
        with self._tabs:
            for number, table in enumerate(TABLES, 1):
                with TabPane(f"{number} {table.title}", id=f"tab-{table.name}"):
                    yield self._widgets[table.name]
        yield self._filter
        yield Footer()

    def on_mount(self) -> None:
        self.run_worker(self.cluster.watch(), name="watch", exit_on_error=True)
        self.set_interval(self._every, self.refresh_tables)
        self.call_later(self.refresh_tables)
        self._widgets[TABLES[0].name].focus()

    async def refresh_tables(self) -> None:
        """Read the cluster anew, and show it."""
        await self.cluster.refresh()
        self._show()

    def on_tabbed_content_tab_activated(self) -> None:
        self._show()
        self._widget(self._table()).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._wanted = event.value
        self._show()

    def on_input_submitted(self) -> None:
        self._widget(self._table()).focus()

    def on_data_table_row_selected(self) -> None:
        if (row := self._row()) is not None:
            self.run_worker(self._show_details(self._table(), row), name="details")

    def action_tab(self, name: str) -> None:
        self._tabs.active = f"tab-{name}"

    def action_filter(self) -> None:
        self._filter.add_class("shown")
        self._filter.focus()

    def action_no_filter(self) -> None:
        self._filter.value = ""
        self._filter.remove_class("shown")
        self._widget(self._table()).focus()

    def action_revoke(self) -> None:
        if (row := self._row_of_call()) is not None:
            self._do(self.cluster.revoke(row.key, terminate=False))

    def action_terminate(self) -> None:
        row = self._row_of_call()
        if row is None:
            return

        def answered(is_wanted: bool | None) -> None:
            if is_wanted:
                self._do(self.cluster.revoke(row.key, terminate=True))

        self.push_screen(Question(f"Terminate {row.cells[0]} {row.key}?"), answered)

    def action_retry(self) -> None:
        if (row := self._row_of_call()) is not None:
            self._do(self.cluster.retry(row.key))

    def action_pause(self) -> None:
        cluster, row = self.cluster, self._row()
        pausing = {
            "workers": cluster.pause_worker,
            "queues": cluster.pause_queue,
            "schedules": cluster.pause_schedule,
        }
        pause = pausing.get(self._table().name)
        if pause is None:
            self.notify("queues, workers and schedules can be paused: tabs 4 to 6", severity="warning")
        elif row is not None:
            self._do(pause(row.cells[0]))

    def action_fire(self) -> None:
        if self._table().name != "schedules":
            self.notify("periodic tasks can be fired: tab 6", severity="warning")
        elif (row := self._row()) is not None:
            self._do(self.cluster.fire_schedule(row.key))

    def _do(self, work: Awaitable[str]) -> None:
        """Have something done, and say what came of it."""

        async def done() -> None:
            try:
                said = await work
            except AioTQError as exc:
                self.notify(printable(str(exc)), severity="error", markup=False)
            else:
                self.notify(printable(said), markup=False)
                await self.refresh_tables()

        self.run_worker(done(), name="doing")

    async def _show_details(self, table: Table, row: Row) -> None:
        self.push_screen(Details(printable(await details(self.cluster, table, row))))

    def _show(self) -> None:
        self._summary.update(summary(self.cluster))
        problems = [f"{part}: {printable(text)}" for part, text in self.cluster.problems.items()]
        self._problems.update("\n".join(problems))
        self._problems.set_class(bool(problems), "shown")
        self._fill(self._table())

    def _fill(self, table: Table) -> None:
        """Show the rows of a table; the cursor stays on what it is on."""
        rows = table.shown(self.cluster, self._wanted)
        if rows == self._rows.get(table.name):
            return
        widget, before = self._widget(table), self._row()
        line, scrolled = widget.cursor_row, widget.scroll_y
        self._rows[table.name] = rows
        widget.clear()
        for row in rows:
            widget.add_row(*(_cell(text, row.color) for text in row.cells))
        if rows:
            same = (at for at, row in enumerate(rows) if before is not None and row.key == before.key)
            widget.move_cursor(row=next(same, min(line, len(rows) - 1)), scroll=False)
            widget.scroll_to(y=scrolled, animate=False)

    def _table(self) -> Table:
        return next((each for each in TABLES if f"tab-{each.name}" == self._tabs.active), TABLES[0])

    def _widget(self, table: Table) -> DataTable[Text]:
        return self._widgets[table.name]

    def _row(self) -> Row | None:
        """Return what the cursor is on."""
        table = self._table()
        rows, line = self._rows.get(table.name, ()), self._widget(table).cursor_row
        return rows[line] if 0 <= line < len(rows) else None

    def _row_of_call(self) -> Row | None:
        """Return the call that the cursor is on; say so if there are none here."""
        if not self._table().is_of_calls:
            self.notify("that is for calls: tabs 1 and 2", severity="warning")
            return None
        return self._row()


def _new_table(table: Table) -> DataTable[Text]:
    widget: DataTable[Text] = DataTable(id=table.name, cursor_type="row", zebra_stripes=True)
    widget.add_columns(*table.columns)
    return widget


def _cell(text: str, color: str) -> Text:
    """Return a cell; what a terminal would obey is shown as text, and markup is none."""
    shown = printable(text).replace("\n", " ").replace("\t", " ")
    return Text(shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…", style=color, no_wrap=True)
