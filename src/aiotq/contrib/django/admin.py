"""Admin pages: results that are kept in the project's database, and periodic tasks."""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.html import format_html

from ... import current_app
from ...core.inside import core_of
from ...exceptions import AioTQError
from ...results.document import Document
from ...results.records import Record
from .models import Schedule, TaskRecord

#: What the page of periodic tasks can do with one.
_ACTIONS: Final = ("pause", "resume", "fire")
_UNREADABLE: Final = "(this app can't read it: {})"


@admin.register(TaskRecord)
class TaskRecordAdmin(admin.ModelAdmin):
    """Results, to look at and to delete."""

    list_display = ("id", "task", "state", "stored")
    list_filter = ("state", "stored")
    search_fields = ("id", "task")
    fields = ("id", "task", "state", "result", "worker", "traceback", "stored")
    show_full_result_count = False  # there may be millions

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: TaskRecord | None = None) -> bool:
        return False

    @admin.display(description="result")
    def result(self, row: TaskRecord) -> str:
        """Return the value, the exception or what the task told of its state, as Python writes it."""
        found = _document(row)
        return found if isinstance(found, str) else repr(found.result)

    @admin.display(description="worker")
    def worker(self, row: TaskRecord) -> str:
        """Return the name of the worker that ran it."""
        found = _document(row)
        return "" if isinstance(found, str) else found.worker or ""

    @admin.display(description="traceback")
    def traceback(self, row: TaskRecord) -> str:
        """Return how it failed."""
        found = _document(row)
        trace = "" if isinstance(found, str) else found.traceback or ""
        return str(format_html("<pre>{}</pre>", trace)) if trace else ""


@admin.register(Schedule)
class ScheduleAdmin(admin.ModelAdmin):
    """Periodic tasks: one page that shows, pauses, resumes and fires them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show all of them, with buttons for those who may change them."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        can_change = self.has_change_permission(request)
        if request.method == "POST":
            if not can_change:
                raise PermissionDenied
            self._act(request)
            return redirect(request.path)
        try:
            tasks = current_app.sync(current_app.schedules.list)
        except AioTQError as exc:
            tasks = ()
            messages.error(request, str(exc))
        context = {
            **self.admin_site.each_context(request),
            "title": "Periodic tasks",
            "opts": self.model._meta,
            "tasks": tasks,
            "can_change": can_change,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/aiotq/schedules.html", context)

    def change_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """There is no page of a single one."""
        return redirect(f"admin:{self.model._meta.app_label}_{self.model._meta.model_name}_changelist")

    def _act(self, request: HttpRequest) -> None:
        action, name = request.POST.get("action", ""), request.POST.get("name", "")
        if action not in _ACTIONS:
            messages.error(request, f"There is no action {action!r}.")
            return
        try:
            current_app.sync(getattr(current_app.schedules, action), name)
        except AioTQError as exc:
            messages.error(request, str(exc))
        else:
            messages.success(request, f"{name}: done ({action}).")


def _document(row: TaskRecord) -> Document | str:
    """Return what a row says, or why it can't be read here."""
    record = Record(row.id, row.state, bytes(row.body), row.content_type, row.expires)
    try:
        return core_of(current_app).codec.decode(record)
    except AioTQError as exc:
        return _UNREADABLE.format(exc)
