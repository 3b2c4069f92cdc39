// Shipway's scripts. Pages work without them; these keep a page true while one looks at it.
// What comes from an app (its log, above all) only ever becomes text nodes.
"use strict";

document.documentElement.classList.add("js");

// -- live: one event stream per page ----------------------------------------------------------
// Own code instead of htmx's extension for server-sent events: the log resumes where it was, and a page that nobody
// looks at gives its connection back (browsers have six per host, the server a bounded number).

const HIDDEN_FOR = 20_000; // ms in the background until the stream is closed
const MAX_LINES = 2_000; // in the page; ten times as many while one reads further up
const RETRY = [1_000, 2_000, 5_000, 10_000]; // ms

class Live {
  constructor(holder) {
    this.url = new URL(holder.dataset.stream, location.href);
    this.log = holder.querySelector("[data-lines]") ? new Log(holder) : null;
    this.failures = 0;
    this.ended = false;
    document.addEventListener("visibilitychange", () => this.seen());
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.open());
    this.open();
  }

  open() {
    if (this.source || this.ended) return;
    clearTimeout(this.timer);
    const source = (this.source = new EventSource(this.url));
    source.addEventListener("open", () => {
      if (this.failures) htmx.trigger(document.body, "changed"); // what did we miss?
      this.failures = 0;
      this.log?.say("live", true);
    });
    source.addEventListener("log", (event) => {
      // Also in the address, since a browser sends the last id only when it resumes by itself.
      if (event.lastEventId) this.url.searchParams.set("after", event.lastEventId);
      this.log?.add(JSON.parse(event.data));
    });
    source.addEventListener("changed", () => htmx.trigger(document.body, "changed"));
    source.addEventListener("end", () => {
      this.ended = true;
      this.close();
      this.log?.say("ended", false);
      htmx.trigger(document.body, "changed");
    });
    source.addEventListener("error", () => {
      this.log?.say("connecting again …", false);
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      this.close();
      if (this.failures === 3 && this.log) this.startAnew();
      this.timer = setTimeout(() => this.open(), RETRY[Math.min(this.failures++, RETRY.length - 1)]);
    });
  }

  // Where it was cannot be found any more, it seems: begin with the last lines again.
  startAnew() {
    this.url.searchParams.delete("after");
    this.log.lines.replaceChildren();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  seen() {
    clearTimeout(this.hiding);
    if (!document.hidden) {
      this.failures = this.source ? this.failures : 1;
      this.open();
    } else {
      this.hiding = setTimeout(() => this.close(), HIDDEN_FOR);
    }
  }
}

class Log {
  constructor(holder) {
    this.lines = holder.querySelector("[data-lines]");
    this.state = holder.querySelector("[data-live-state]");
    this.newest = holder.querySelector("[data-newest]");
    this.unread = 0;
    this.follow = true;
    this.lines.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.newest.addEventListener("click", () => this.toEnd());
    for (const time of this.lines.querySelectorAll("time")) clock(time);
    this.toEnd();
  }

  say(text, on) {
    this.state.textContent = text;
    this.state.classList.toggle("on", on);
  }

  add(lines) {
    this.lines.querySelector(".nothing")?.remove();
    const added = document.createDocumentFragment();
    for (const line of lines) added.append(lineNode(line));
    this.lines.append(added);
    const most = this.follow ? MAX_LINES : 10 * MAX_LINES;
    while (this.lines.childElementCount > most) this.lines.firstElementChild.remove();
    if (this.follow) return this.toEnd();
    this.unread += lines.length;
    this.newest.textContent = `↓ ${this.unread} new`;
  }

  scrolled() {
    const left = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight;
    this.follow = left < 24;
    this.newest.hidden = this.follow;
    if (this.follow) this.unread = 0;
    else if (!this.unread) this.newest.textContent = "↓ Newest";
  }

  toEnd() {
    this.lines.scrollTop = this.lines.scrollHeight;
    this.follow = true;
    this.unread = 0;
    this.newest.hidden = true;
  }
}

// {iso, clock, source, hue, pieces: [[classes, text], …]}; a build's lines have pieces only.
function lineNode(line) {
  const node = element("div", "line");
  if (line.iso) {
    const time = element("time", "", line.clock);
    time.dateTime = line.iso;
    clock(time);
    node.append(time, element("span", `source ${line.hue}`, line.source));
  }
  const text = element("span", "text");
  for (const [look, part] of line.pieces) text.append(look ? element("span", look, part) : part);
  node.append(text);
  return node;
}

function element(name, classes, text) {
  const node = document.createElement(name);
  if (classes) node.className = classes;
  if (text !== undefined) node.textContent = text;
  return node;
}

// -- times ------------------------------------------------------------------------------------

function clock(time) {
  const at = new Date(time.dateTime);
  time.title = at.toLocaleString();
  time.textContent = at.toLocaleTimeString([], { hour12: false });
}

function ago(seconds) {
  for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name} ago`;
  }
  return "just now";
}

function refreshTimes(root) {
  for (const time of root.querySelectorAll("[data-ago]")) {
    time.textContent = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
  }
}

// -- small helps ------------------------------------------------------------------------------

// Runs on every part of a page that has just come in.
function prepare(root) {
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  for (const input of root.querySelectorAll("[data-expect]")) expectText(input);
  refreshTimes(root);
}

function expectText(input) {
  const button = input.form.querySelector("button:not([type=button])");
  const check = () => (button.disabled = input.value.trim() !== input.dataset.expect);
  input.addEventListener("input", check);
  check();
}

async function copy(button) {
  await navigator.clipboard.writeText(button.dataset.copy);
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
}, true);

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

document.addEventListener("input", (event) => {
  const control = event.target.closest("[data-scale]");
  if (control) control.classList.toggle("changed", event.target.value !== event.target.defaultValue);
});

// Minus and plus change the number; it is sent once one has stopped pressing, so that no press is lost or outrun.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-scale] button[name=step]");
  if (!button) return;
  event.preventDefault();
  const control = button.closest("[data-scale]");
  const input = control.querySelector("input[type=number]");
  const wanted = Number(input.value) + Number(button.value);
  input.value = Math.min(Math.max(wanted, input.min), input.max);
  input.dispatchEvent(new Event("input", { bubbles: true }));
  control.classList.add("stepping");
  clearTimeout(control.timer);
  control.timer = setTimeout(() => {
    control.classList.remove("stepping");
    if (control.matches(".changed")) input.form.requestSubmit();
  }, 300);
});

// A part that somebody is typing into, selecting text in, pressing a button of or waiting for is not replaced under
// their hands; the next event or poll brings what was left out.
let pressing = false;
addEventListener("pointerdown", () => (pressing = true), true);
for (const end of ["pointerup", "pointercancel"]) {
  addEventListener(end, () => setTimeout(() => (pressing = false)), true); // after the click
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, requestConfig } = event.detail;
  if (target.querySelector(".stepping")) event.detail.shouldSwap = false;
  if (requestConfig.verb !== "get") return;
  const selection = getSelection();
  const selecting = !selection.isCollapsed && target.contains(selection.anchorNode);
  if (pressing || selecting || target.querySelector(".changed, form.htmx-request")) {
    event.detail.shouldSwap = false;
  }
});
document.addEventListener("htmx:afterSettle", (event) => {
  prepare(event.detail.elt.parentNode ?? document);
  // A number field does not tell what of it is selected, so it comes back selected whole: what one types replaces it.
  if (document.activeElement?.matches("[data-scale] input[type=number]")) document.activeElement.select();
  // A form's answer has replaced the part that fetched what happened meanwhile: fetch again.
  if (event.detail.requestConfig?.verb !== "get") htmx.trigger(document.body, "changed");
});

addEventListener("DOMContentLoaded", () => {
  prepare(document);
  setInterval(() => refreshTimes(document), 15_000);
  const holder = document.querySelector("[data-stream]");
  if (holder) new Live(holder);
});
