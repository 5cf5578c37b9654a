"""Builds the documentation site into build/docs/site; with the word `serve`, shows it; with `llms`, prints llms.txt.

The pages in docs/ are plain Markdown, as a forge shows them. Here they become a site: the navigation is what
docs/README.md lists; links that leave docs/ lead to pages made of the files they name; the API pages are made of
`aiotq.__all__`. A build fails on a broken link, on a page that the index does not list, and if a page asks another host
for anything.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
BUILD: Final = ROOT / "build" / "docs"
SOURCE: Final = BUILD / "source"
#: Seconds between two looks for changes, while the site is served.
LOOK_EVERY: Final = 1.0
#: Files outside docs/ that have a page of their own.
BESIDE: Final = {
    "README.md": "README.md",  # the site's own front page has the same links
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
#: The page of the API on which a public name stands, by what it is for.
API: Final[dict[str, Sequence[str]]] = {
    "App": ["AioTQ", "Worker", "WorkerLifespan", "find_app", "current_app"],
    "Tasks": ["Task", "shared_task", "CallOptions", "Request", "current_task", "Depends", "INJECTED", "ExceptionInfo"],
    "Workflows": [
        "Signature",
        "signature",
        "Canvas",
        "chain",
        "Chain",
        "group",
        "Group",
        "chord",
        "Chord",
        "StampingVisitor",
        "Graph",
    ],
    "Results": (
        [
            "AsyncResult",
            "ResultSet",
            "GroupResult",
            "Update",
            "Progress",
            "EagerResult",
            "SyncResult",
            "SyncResultSet",
            "SyncGroupResult",
        ]
    ),
    "Routing and schedules": ["Queue", "Exchange", "Binding", "crontab", "interval", "once", "solar"],
    "Hooks": ["Middleware", "OutgoingCall", "RunningCall", "signals.Signal"],
    "Flow control": ["Unique", "Debounce", "Throttle", "RateLimit", "Limit"],
    "States": ["states"],
}
#: Of an import path, the names which users have by attributes of their app.
BY_THE_APP: Final = {
    "Control": ("aiotq.control.admin.Admin", "aiotq.control.remote.Control", "aiotq.control.events.Events"),
    "Periodic tasks": ("aiotq.beat.manage.Schedules",),
    "Testing": ("aiotq.testing.TestWorker", "aiotq.testing.Ran", "aiotq.testing.Sent"),
}

_FACTS: Final = """# aiotq

> A task queue for asyncio with Celery's programming model. Python 3.11 or newer. Brokers: SQLite (the default, no
> server), PostgreSQL, Redis, RabbitMQ, memory. Tasks are coroutines, plain functions (threads), or run="process".

- Declare: `app = AioTQ("proj")`, `@app.task`. Call: `result = await add.delay(2, 2)`.
- Wait: `await result` or `await result.get(timeout=5)`.
- Without a loop: `add.sync.delay(2, 2).get()`. Options of one call: `add.options(countdown=5, queue="hi").delay(2, 2)`.
- Run: `aiotq worker proj:app`; in one's own loop: `async with app.worker():`.
- Periodic: `@app.periodic(crontab(...))` and `aiotq beat proj:app`.
- Workflows: `chain`, `group`, `chord`; `a.s(1) | b.s()`, `group(...) | total.s()`. Tests: `aiotq.testing.TestWorker`.
- Delivery is at least once. Unknown options, settings and arguments that do not fit are errors at the call.
"""


class SiteError(Exception):
    """Raised when the site is not whole; the text says what to mend."""


_FENCE: Final = re.compile(r"^( *)(```+|~~~+)", re.MULTILINE)
_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")
_LINK: Final = re.compile(r"(\]\()([^)\s#]+)?(#[^)\s]*)?(\))")
_ITEM: Final = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\)")
_FOREIGN: Final = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)


def navigation(index: str) -> list[Any]:
    """Return the navigation: a section for each heading of the index, with the pages listed below it."""
    nav: list[Any] = [{"Home": "README.md"}]
    part: list[Any] = nav
    section: list[Any] = nav
    for line in index.splitlines():
        if line.startswith("## "):
            section = part = []
            nav.append({line[3:]: section})
        elif line.startswith("### "):
            part = []
            section.append({line[4:]: part})
        elif item := _ITEM.match(line):
            part += listed(item[1], item[2])
    return nav


def listed(title: str, link: str) -> list[Any]:
    """Return what the navigation has for one line of the index."""
    match link:
        case "decisions":
            pages = sorted(f"decisions/{path.name}" for path in (DOCS / "decisions").glob("*.md"))
            return [{title: ["decisions/index.md", *pages]}]
        case "reference/app.md":
            return [
                {title: link},
                {"API": [f"reference/api/{slug(name)}.md" for name in [*API, "Errors", *BY_THE_APP, "More"]]},
            ]
        case _ if link.startswith("../"):
            outside = posixpath.normpath(link.removeprefix("../"))
            return [{title: page_of(outside)}] if outside != "examples" else [{title: [*map(page_of, examples())]}]
        case _:
            return [{title: link}]


def slug(title: str) -> str:
    """Return the file name of a page with this title."""
    return title.lower().replace(" ", "-")


def made() -> Iterator[tuple[str, str]]:
    """Yield path and text of each page that is not in docs/."""
    for path, page in BESIDE.items():
        if page != "README.md":
            yield page, (ROOT / path).read_text()
    for name in examples():
        yield f"{name}.md", example(ROOT / name)
    yield "decisions/index.md", decisions()
    yield from api_pages()


def examples() -> list[str]:
    """Return the folders of examples."""
    return sorted(f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if any(path.glob("*.*")))


def example(folder: Path) -> str:
    """Return the page about an example: its README, and each of its files."""
    readme = folder / "README.md"
    head = readme.read_text() if readme.exists() else f"# {folder.name}\n\n`examples/{folder.name}`"
    parts = [head.rstrip()]
    kinds = {".py": "python", ".ipynb": "json", ".html": "html"}
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.read_text().strip())
    parts += [f"## {each.relative_to(folder)}\n\n````{kinds[each.suffix]}\n{each.read_text()}````" for each in files]
    return "\n\n".join(parts) + "\n"


def decisions() -> str:
    """Return the list of decisions."""
    rows = ["# Decisions", "", "Each says what was decided, why, and what else was tried.", ""]
    for path in sorted((DOCS / "decisions").glob("*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        rows.append(f"- [{title}]({path.name})")
    return "\n".join(rows) + "\n"


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield the pages of the API: every public name once; one that `API` does not place is on the page `More`.

    Raises:
        SiteError: a name on a page is not public.
    """
    tree = ast.parse((ROOT / "src/aiotq/exceptions.py").read_text())
    errors = [each.name for each in tree.body if isinstance(each, ast.ClassDef)]
    placed = {name.partition(".")[0] for names in API.values() for name in names}
    public = public_names()
    if placed - set(public):
        raise SiteError(f"scripts/documentation.py: aiotq has no public {', '.join(sorted(placed - set(public)))}")
    pages = {title: [f"aiotq.{name}" for name in names] for title, names in API.items()}
    pages["Errors"] = [f"aiotq.exceptions.{name}" for name in errors]
    pages["More"] = [f"aiotq.{name}" for name in public if name not in {*placed, *errors, "__version__"}]
    for title, names in {**pages, **BY_THE_APP}.items():
        body = "\n\n".join(map(directive, names)) or "Nothing more."
        yield f"reference/api/{slug(title)}.md", f"# {title}\n\n{body}\n"


def directive(name: str) -> str:
    """Return what has mkdocstrings describe a name: of a class on the page of the app, only what is promised there."""
    page = (DOCS / "reference" / "app.md").read_text()
    section = page.partition(f"\n## {name.removeprefix('aiotq.')}\n")[2].partition("\n## ")[0]
    promised = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    members = "".join(f"\n        - {each}" for each in promised)
    return f"::: {name}" + (
        f"\n    options:\n      inherited_members: true\n      members:{members}" if members else ""
    )


def public_names() -> list[str]:
    """Return `aiotq.__all__`."""
    for statement in ast.parse((ROOT / "src/aiotq/__init__.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    raise SiteError("src/aiotq/__init__.py has no __all__")


def page_of(path: str) -> str | None:
    """Return the page of the site for a file or folder of the repository, or None."""
    if path in BESIDE:
        return BESIDE[path]
    if path == "docs/decisions":
        return "decisions/index.md"
    if path.startswith("examples/"):
        return f"examples/{path.split('/')[1]}.md"
    if path == "examples":
        return page_of(examples()[0])
    return path.removeprefix("docs/") if path.startswith("docs/") and (ROOT / path).is_file() else None


def led(markdown: str, page: str) -> str:
    """Return a page's text with its links leading to pages of the site."""
    where = posixpath.dirname(source_of(page))
    here = posixpath.dirname(page) or "."

    def lead(match: re.Match[str]) -> str:
        target = match[2]
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        there = page_of(posixpath.normpath(posixpath.join(where, target)))
        return f"{match[1]}{posixpath.relpath(there, here)}{match[3] or ''})" if there else match[0]

    return "".join(part if is_code else _LINK.sub(lead, part) for part, is_code in parts_of(markdown))


def source_of(page: str) -> str:
    """Return the file of the repository that a page was made of."""
    for path, each in BESIDE.items():
        if each == page and page != "README.md":
            return path
    if page.startswith("examples/"):
        return f"{page.removesuffix('.md')}/README.md"
    return f"docs/{page}"


def parts_of(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield the text in parts, and whether each is a block of code."""
    part: list[str] = []
    fence = ""
    for line in markdown.splitlines(keepends=True):
        found = _FENCE.match(line)
        if found and not fence:
            yield "".join(part), False
            part, fence = [line], found[2]
        elif found and fence and line.strip() == fence:
            yield "".join([*part, line]), True
            part, fence = [], ""
        else:
            part.append(line)
    yield "".join(part), bool(fence)


def prepare() -> None:
    """Write all that the generator reads. What has not changed is left as it is."""
    wanted: dict[Path, bytes] = {}
    for path in DOCS.rglob("*"):
        if path.is_file():
            page = path.relative_to(DOCS).as_posix()
            wanted[SOURCE / page] = led(path.read_text(), page).encode() if path.suffix == ".md" else path.read_bytes()
    wanted[SOURCE / "llms.txt"] = llms().encode()
    wanted |= {SOURCE / page: led(text, page).encode() for page, text in made()}
    nav = navigation((DOCS / "README.md").read_text())
    if missing := {path.relative_to(SOURCE).as_posix() for path in wanted if path.suffix == ".md"} - set(pages_in(nav)):
        raise SiteError(f"docs/README.md does not list {', '.join(sorted(missing))}")
    settings = (
        (ROOT / "scripts" / "documentation.toml")
        .read_text()
        .replace("[project]\n", f"[project]\nnav = {as_toml(nav)}\n", 1)
    )
    wanted[BUILD / "zensical.toml"] = settings.encode()
    for path in SOURCE.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def pages_in(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    match nav:
        case str():
            yield nav
        case dict():
            yield from pages_in(list(nav.values()))
        case _:
            for each in nav:
                yield from pages_in(each)


def as_toml(nav: Any) -> str:
    """Return a navigation as a value of TOML."""
    match nav:
        case str():
            return json.dumps(nav)
        case dict():
            return "{ " + ", ".join(f"{json.dumps(key)} = {as_toml(each)}" for key, each in nav.items()) + " }"
        case _:
            return "[" + ", ".join(map(as_toml, nav)) + "]"


def build() -> None:
    """Build the site.

    Raises:
        SiteError: it is not whole.
    """
    shutil.rmtree(BUILD, ignore_errors=True)
    prepare()
    done = subprocess.run([generator(), "build", "--strict"], cwd=BUILD, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SiteError(_COLOUR.sub("", done.stdout + done.stderr).partition("Traceback")[0])
    site = BUILD / "site"
    for path in site.rglob("*.html"):
        if found := _FOREIGN.search(path.read_text()):
            raise SiteError(f"{path.relative_to(site)} loads {found[1]}")
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"{pages} pages in {site.relative_to(ROOT)}; `make docs-serve` shows them (the search needs a server)")


def serve() -> None:
    """Show the site, and each change of a page, until Ctrl-C."""
    prepare()
    with subprocess.Popen([generator(), "serve"], cwd=BUILD) as serving:
        try:
            while serving.poll() is None:
                time.sleep(LOOK_EVERY)
                prepare()
        except KeyboardInterrupt:
            serving.terminate()


def llms() -> str:
    """Return the list of pages for programs that read: llms.txt."""
    index = (DOCS / "README.md").read_text()
    pages = re.sub(r"^(- \[[^\]]+\]\()", r"\1docs/", index[index.index("## Tutorial") :], flags=re.MULTILINE)
    return f"{_FACTS}\n{pages.replace('(docs/../', '(')}"


def generator() -> str:
    """Return the program, which is beside the interpreter."""
    return str(Path(sys.executable).with_name("zensical"))


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["serve"]:
                serve()
            case ["llms"]:
                sys.stdout.write(llms())
            case _:
                build()
    except SiteError as error:
        sys.exit(f"docs: {error}")
