// All of this is an addition: every page works without it. No markup is made here, so nothing needs escaping: what is
// newer is fetched as a page, and its nodes take the place of those that are here.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");

  // Seconds between two fetches of a page at least, and until a stream that was refused is asked for again.
  const APART = 1.8, REFUSED = 5;

  document.addEventListener("DOMContentLoaded", () => {
    const body = document.body, base = body.dataset.base ?? "", live = body.dataset.live;

    // The graph opens where something runs, and keeps its size when it is drawn anew.
    let zoom = 1;
    const resize = () => document.querySelectorAll(".graph > svg").forEach((svg) => {
      const box = svg.viewBox.baseVal;
      svg.setAttribute("width", box.width * zoom);
      svg.setAttribute("height", box.height * zoom);
    });
    document.querySelectorAll(".graph").forEach((graph) => {
      const node = graph.querySelector(".g-node.run, .g-node.retry, .g-node.bad");
      if (node) graph.scrollLeft = node.getBoundingClientRect().left - graph.getBoundingClientRect().left - graph.clientWidth / 2;
    });

    // What must be typed before something is lost; the server checks it again.
    const checkWord = (input) => input.setCustomValidity(input.value.trim() === input.dataset.word ? "" : `Type ${input.dataset.word}`);
    document.querySelectorAll("[data-word]").forEach(checkWord);

    document.addEventListener("input", (event) => { if (event.target.matches("[data-word]")) checkWord(event.target); });

    document.addEventListener("click", (event) => {
      const at = (selector) => event.target.closest?.(selector);
      const fold = at("[data-fold]");
      if (fold) {
        const parts = [...document.querySelectorAll(fold.dataset.fold)];
        const open = parts.some((part) => !part.open);
        parts.forEach((part) => { part.open = open; });
        fold.setAttribute("aria-expanded", String(open));
      }
      const keys = at("[data-keys]");
      if (keys) keys.setAttribute("aria-pressed", String(root.classList.toggle("no-keys")));
      const copy = at("[data-copy]");
      if (copy && navigator.clipboard) {
        navigator.clipboard.writeText(copy.dataset.copy).then(() => { copy.lastChild.textContent = " Copied"; });
      }
      const size = at("[data-zoom]");
      if (size) {
        const graph = document.querySelector(".graph"), svg = graph?.querySelector("svg");
        if (!svg) return;
        const fit = Math.min(1, (graph.clientWidth - 4) / svg.viewBox.baseVal.width);
        zoom = size.dataset.zoom === "fit" ? fit : Math.min(3, Math.max(0.2, zoom * (size.dataset.zoom === "+" ? 1.25 : 0.8)));
        resize();
      }
    });

    // The theme changes at once; the server keeps it, so that the next page comes in it.
    document.addEventListener("submit", (event) => {
      if (!event.target.matches("[data-theme-form]") || !event.submitter) return;
      event.preventDefault();
      const form = new URLSearchParams(new FormData(event.target, event.submitter)), theme = event.submitter.value;
      fetch(event.target.action, { method: "POST", body: form, redirect: "manual" }).catch(() => {});
      if (theme === "system") delete root.dataset.theme;
      else root.dataset.theme = theme;
      event.target.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button === event.submitter)));
    });

    // What asks before something is lost is a page; here its question is taken out of it and opens over this one.
    document.addEventListener("submit", async (event) => {
      const button = event.submitter, form = event.target;
      if (!button?.matches("[data-asks]") || !HTMLElement.prototype.showPopover) return;
      event.preventDefault();
      let ask = null;
      try {
        const to = button.getAttribute("formaction") ?? form.getAttribute("action");
        const answer = await fetch(to, { method: "POST", body: new URLSearchParams(new FormData(form, button)) });
        ask = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("ask");
      } catch {}
      if (!ask) { button.removeAttribute("data-asks"); form.requestSubmit(button); return; }
      document.getElementById("ask")?.remove();
      ask = document.importNode(ask, true);
      ask.setAttribute("popover", "auto");
      ask.setAttribute("role", "dialog");
      ask.querySelectorAll("[data-word]").forEach(checkWord);
      ask.querySelector("a.btn").addEventListener("click", (click) => { click.preventDefault(); ask.hidePopover(); });
      document.getElementById("main").append(ask);
      ask.showPopover();
    });

    document.addEventListener("change", (event) => {
      if (!event.target.matches("[data-all]")) return;
      event.target.form.querySelectorAll("tbody input[type=checkbox]").forEach((box) => { box.checked = event.target.checked; });
    });

    // Keys, never while somebody types: / search, g then a letter to go, j and k along the rows, x to choose, Enter to open, ? for this list. They can be turned off (WCAG 2.1.4).
    const places = { o: "", t: "tasks", f: "workflows", q: "queues", w: "workers", s: "schedules", d: "dead" };
    let going = 0;
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || root.classList.contains("no-keys") || event.target.matches("input:not([type=checkbox]), textarea, select")) return;
      const rows = [...document.querySelectorAll("[data-rows] tbody tr")];
      const here = rows.findIndex((row) => row.classList.contains("at"));
      const move = (to) => {
        rows[here]?.classList.remove("at");
        rows[to]?.classList.add("at");
        rows[to]?.scrollIntoView({ block: "nearest" });
      };
      if (Date.now() - going < 1200 && event.key in places) location.href = `${base}/${places[event.key]}`;
      else if (event.key === "g") going = Date.now();
      else if (event.key === "/") { event.preventDefault(); document.querySelector("[data-search]")?.focus(); }
      else if (event.key === "?") document.getElementById("keys")?.togglePopover();
      else if (event.key === "j") move(Math.min(here + 1, rows.length - 1));
      else if (event.key === "k") move(Math.max(here - 1, 0));
      else if (event.key === "x") rows[here]?.querySelector("input[type=checkbox]")?.click();
      else if (event.key === "Enter" && here >= 0 && event.target === body) rows[here].querySelector("a")?.click();
    });

    // Live: the server says that there is a newer look, the page is fetched, and its parts take the place of those here.
    const badge = document.getElementById("live");
    if (!live || !badge || badge.classList.contains("held") || !window.EventSource) return;
    const say = (state, strong, rest) => {
      badge.classList.toggle("lost", state === "lost");
      badge.querySelector("b").textContent = strong;
      badge.querySelector(".soft").textContent = rest;
    };

    const keyOf = (row) => row.querySelector("input[name=id], input[name=key]")?.value.split(" ")[0];
    // Rows never jump: those that are here change in place, newer ones wait behind a link.
    const keepRows = (here, newer) => {
      const old = new Map([...here.rows].map((row) => [keyOf(row), row]));
      let count = 0;
      for (const row of [...newer.rows]) {
        const key = keyOf(row), mine = old.get(key);
        if (!key) continue;
        if (!mine) count += 1;
        else if (!mine.querySelector("input:checked") && mine.innerHTML !== row.innerHTML) mine.replaceChildren(...row.childNodes);
      }
      const fresh = document.getElementById("fresh");
      if (fresh) {
        fresh.hidden = count === 0;
        fresh.textContent = count === 1 ? "1 newer task. Show it" : `${count} newer tasks. Show them`;
      }
    };
    const take = (page) => {
      page.querySelectorAll("[data-part][id]").forEach((newer) => {
        const here = document.getElementById(newer.id);
        if (!here || here.innerHTML === newer.innerHTML) return;
        if (here.hasAttribute("data-keep")) return keepRows(here, newer);
        const active = document.activeElement;
        if (here.contains(active) && active.matches("input, textarea, select")) return;
        if (here.querySelector("input:checked, details[open]")) return;
        const place = here.contains(active) ? [...here.querySelectorAll("a, button")].indexOf(active) : -1;
        here.className = newer.className;
        here.replaceChildren(...[...newer.childNodes].map((node) => document.importNode(node, true)));
        if (place >= 0) here.querySelectorAll("a, button")[place]?.focus();
        if (here.classList.contains("graph")) resize();
      });
    };

    let fetching = false, fetched = 0, stream = null, seen = "";
    const refresh = async () => {
      if (fetching || Date.now() - fetched < APART * 1000 || document.querySelector(".ask:popover-open")) return;
      fetching = true;
      try {
        const answer = await fetch(location.href, { headers: { "x-live": "1" } });
        if (answer.redirected && answer.url.includes("/sign-in")) return location.assign(answer.url);
        if (answer.ok) take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        fetched = Date.now();
        if (answer.ok) say("live", "Live", "· now");
      } catch {
        lost();
      } finally {
        fetching = false;
      }
    };
    const lost = () => say("lost", "No connection", `· numbers are of ${seen || "when this page came"}, trying again`);
    const follow = () => {
      if (stream || document.hidden) return;
      stream = new EventSource(`${base}/live`);
      stream.addEventListener("look", (event) => {
        const told = JSON.parse(event.data);
        seen = told.at.slice(11, 19);
        refresh();
      });
      stream.addEventListener("bye", () => {
        stream?.close();
        stream = null;
        setTimeout(follow, 200);
      });
      stream.addEventListener("error", () => {
        lost();
        if (stream?.readyState === EventSource.CLOSED) {
          stream = null;
          setTimeout(follow, REFUSED * 1000);
        }
      });
    };
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { stream?.close(); stream = null; } else follow();
    });
    addEventListener("pagehide", () => stream?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) { stream = null; follow(); } });
    follow();
  });
})();
