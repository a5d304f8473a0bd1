"use strict";
// Shows /status. Whatever comes from there is put into text nodes and attributes by the DOM, never into markup. The columns
// and the words are those that the server writes for readers without JavaScript (render.rs).

const PAUSE = 2000;
const PATIENCE = 5000;
const SEVERITY = { down: 4, silent: 3, poor: 2, unknown: 1, good: 0 };
const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);

// --- words --------------------------------------------------------------------------------------------------------------

function duration(seconds) {
  const whole = Math.floor(seconds);
  const [day, hour, minute] = [86400, 3600, 60];
  if (whole < minute) return `${whole} s`;
  if (whole < hour) return `${Math.floor(whole / minute)} min ${whole % minute} s`;
  if (whole < day) return `${Math.floor(whole / hour)} h ${Math.floor((whole % hour) / minute)} min`;
  return `${Math.floor(whole / day)} d ${Math.floor((whole % day) / hour)} h`;
}

function milliseconds(value) {
  return value === null ? "" : `${value.toFixed(value < 10 ? 2 : 0)} ms`;
}

function size(bytes) {
  return bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
}

const words = (label) => label.replaceAll("_", " ");

// --- tables -------------------------------------------------------------------------------------------------------------

function setText(node, text) {
  // A text that stays is left alone, so that nobody who reads it is disturbed.
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A cell is a text, or an object: text, and state, number or times.
function fill(id, rows) {
  const table = element(id);
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  rows.forEach((cells, at) => {
    let row = body.rows[at];
    if (row && row.cells.length !== cells.length) {
      row.replaceChildren();
    } else if (!row) {
      row = body.insertRow();
      row.setAttribute("role", "row");
    }
    cells.forEach((cell, column) => {
      const { text, state, times } = typeof cell === "object" ? cell : { text: cell };
      let node = row.cells[column];
      if (!node) {
        node = document.createElement(column === 0 ? "th" : "td");
        node.setAttribute("role", column === 0 ? "rowheader" : "cell");
        if (column === 0) node.setAttribute("scope", "row");
        else node.setAttribute("data-label", heads[column].textContent);
        if (heads[column].hasAttribute("data-number")) node.setAttribute("data-number", "");
        row.append(node);
      }
      setAttribute(node, "data-state", state);
      if (times === undefined) {
        setText(node, String(text));
      } else {
        let label = node.querySelector("span");
        if (!label) {
          label = document.createElement("span");
          node.replaceChildren(label);
        }
        setText(label, text);
        node.querySelector("svg")?.remove();
        if (times.length > 1) node.append(sparkline(times));
      }
    });
  });
  table.hidden = rows.length === 0;
}

// Round-trip times; a gap, with a mark below it, where there was none. The text beside it says the same.
function sparkline(times) {
  const svg = document.createElementNS(SVG, "svg");
  const width = 120;
  const height = 24;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const most = Math.max(0.001, ...times.filter((time) => time !== null));
  const first = width - times.length;
  let points = [];
  const draw = () => {
    if (points.length > 0) {
      const line = document.createElementNS(SVG, "polyline");
      if (points.length === 1) points.push(points[0].replace(/^[\d.]+/, (x) => String(Number(x) + 1)));
      line.setAttribute("points", points.join(" "));
      svg.append(line);
    }
    points = [];
  };
  times.forEach((time, at) => {
    if (time !== null) {
      points.push(`${first + at},${(height - 2 - (time / most) * (height - 4)).toFixed(1)}`);
      return;
    }
    draw();
    const gap = document.createElementNS(SVG, "rect");
    gap.setAttribute("x", String(first + at));
    gap.setAttribute("y", String(height - 2));
    gap.setAttribute("width", "1");
    gap.setAttribute("height", "2");
    svg.append(gap);
  });
  draw();
  return svg;
}

// --- the sections -------------------------------------------------------------------------------------------------------

function servers(status) {
  const rows = [];
  for (const group of status.upstreams) {
    for (const server of group.servers) {
      for (const [at, health] of server.health.entries()) {
        rows.push({ group, server, health, first: at === 0, severity: SEVERITY[health.state] ?? 4 });
      }
    }
  }
  // The sort is stable: the configured order within a state.
  rows.sort((one, other) => other.severity - one.severity);
  return rows.map(({ group, server, health, first }) => {
    const known = server.rtt_milliseconds.filter((time) => time !== null);
    const range = known.length === 0 ? "" : `${Math.min(...known).toFixed(2)} to ${Math.max(...known).toFixed(2)} ms`;
    return [
      server.server, group.name, health.transport, { text: health.state, state: health.state }, words(health.reason),
      duration(health.since_seconds), milliseconds(health.srtt_milliseconds), `${health.loss_percent} %`,
      first ? { text: range, times: server.rtt_milliseconds } : "",
    ];
  });
}

function verdict(status) {
  const sick = { down: 0, silent: 0, poor: 0 };
  let all = 0;
  for (const health of status.upstreams.flatMap((group) => group.servers.map((server) => server.health[0]))) {
    all += 1;
    if (health.state in sick) sick[health.state] += 1;
  }
  const dead = status.upstreams.some((group) =>
    group.servers.every((server) => server.health[0].state === "down"));
  const parts = Object.entries(sick).filter(([, count]) => count > 0).map(([state, count]) => `${count} ${state}`);
  const ready = status.ready ? "" : "Not ready. ";
  if (parts.length === 0) return [`${ready}No server is sick, of ${all}.`, "good"];
  return [`${ready}Of ${all} servers: ${parts.join(", ")}.`, dead || sick.down > 0 ? "down" : "poor"];
}

function codes(status) {
  const all = new Set(["NOERROR", "NXDOMAIN", "SERVFAIL"]);
  for (const totals of [...status.routes, status.answered_here]) Object.keys(totals.replies).forEach((code) => all.add(code));
  return [...all];
}

function routes(status) {
  const shown = codes(status);
  const head = element("routes").tHead.rows[0];
  const wanted = ["Route", "Goes to", "Replies", "From cache", ...shown];
  while (head.cells.length < wanted.length) {
    const cell = document.createElement("th");
    cell.setAttribute("role", "columnheader");
    cell.setAttribute("scope", "col");
    cell.setAttribute("data-number", "");
    head.append(cell);
  }
  while (head.cells.length > wanted.length) head.lastElementChild.remove();
  wanted.forEach((text, at) => setText(head.cells[at], text));
  const row = (name, target, totals) => [
    name, target, String(totals.queries), String(totals.hits), ...shown.map((code) => String(totals.replies[code] ?? 0)),
  ];
  const rows = status.routes.map((route) => row(route.zone, route.answer ?? route.groups.join(", then "), route));
  rows.push(row("none", "answered here", status.answered_here));
  return rows;
}

let before = null;

function numbers(status) {
  const { totals, cache } = status;
  const replies = [...status.routes, status.answered_here].reduce((sum, one) => sum + one.queries, 0);
  const now = { at: performance.now(), replies, hits: totals.cache_hits, misses: totals.cache_misses };
  let [rate, ratio] = ["", ""];
  // Over ten seconds at least; a restart begins anew.
  if (before === null || before.replies > replies) before = [];
  before.push(now);
  while (before.length > 2 && now.at - before[1].at > 10000) before.shift();
  const then = before[0];
  const seconds = (now.at - then.at) / 1000;
  if (seconds > 0) {
    rate = ((replies - then.replies) / seconds).toFixed(1);
    const asked = now.hits - then.hits + now.misses - then.misses;
    if (asked > 0) ratio = `${(((now.hits - then.hits) * 100) / asked).toFixed(1)} %`;
  }
  return {
    "n-replies": String(replies),
    "n-rate": rate,
    "n-hit": cache.hit_percent === null ? "" : `${cache.hit_percent.toFixed(1)} %`,
    "n-hit-now": ratio,
    "n-stale": String(cache.stale_served),
    "n-entries": String(cache.entries),
    "n-bytes": `${size(cache.bytes)} of ${size(cache.max_bytes)}`,
  };
}

function show(status) {
  setText(element("node"), status.node);
  const [text, health] = verdict(status);
  setText(element("verdict"), text);
  element("verdict").setAttribute("data-health", health);
  setText(element("updated"), updated(status));
  fill("servers", servers(status));
  fill("hosts", status.upstreams.flatMap((group) => (group.hosts ?? []).map((host) =>
    [host.host, group.name, host.addresses.join(", "), host.failure ?? ""])));
  const failures = status.failures ?? [];
  fill("failures", failures.map((failure) => [
    failure.name, failure.type, failure.route ?? "none", failure.rcode, failure.text, String(failure.count),
    `${duration(failure.ago_seconds)} ago`,
  ]));
  element("no-failures").hidden = failures.length > 0;
  setText(element("no-failures"), status.failures === null ? "Not shown: status.failures is false." : "None.");
  for (const [id, value] of Object.entries(numbers(status))) setText(element(id), value);
  fill("routes", routes(status));
  const top = status.top ?? { names: [], slowest: [], clients: [] };
  setText(element("top-since"), status.top === null
    ? "Not counted: status.top is off."
    : `Of the last ${duration(status.top.since_seconds)}. Counts may be too high by what stands beside them.`);
  const counted = (key) => (one) => [one[key], String(one.queries), String(one.error)];
  fill("names", top.names.map(counted("name")));
  fill("slowest", top.slowest.map((one) =>
    [one.name, milliseconds(one.waited_milliseconds), milliseconds(one.error_milliseconds)]));
  fill("clients", top.clients.map(counted("client")));
  const { configuration } = status;
  setText(element("configuration"), inForce(configuration));
  const list = element("mistakes");
  if (list.children.length !== configuration.mistakes.length) {
    list.replaceChildren(...configuration.mistakes.map(() => document.createElement("li")));
  }
  configuration.mistakes.forEach((mistake, at) => setText(list.children[at], mistake));
  fill("settings", configuration.settings.map(({ key, value, origin }) => [key, value, origin]));
}

function updated(status) {
  const workers = status.workers === 1 ? "1 worker" : `${status.workers} workers`;
  return `Version ${status.version}, up for ${duration(status.uptime_seconds)}, ${workers}, listening on ${status.listen.join(", ")}.`;
}

function inForce(configuration) {
  const parts = [`In force for ${duration(configuration.since_seconds)}.`];
  if (configuration.mistakes.length > 0) parts.push("The files hold mistakes now, and are not used:");
  if (configuration.restart_needed.length > 0) {
    parts.push(`Changed, and waiting for a restart: ${configuration.restart_needed.join(", ")}.`);
  }
  return parts.join(" ");
}

// --- reading ------------------------------------------------------------------------------------------------------------

let paused = false;
let timer = 0;
let lost = null;

async function read() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  try {
    const response = await fetch("/status", { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const status = await response.json();
    show(status);
    lost = null;
    setText(element("contact"), "");
  } catch {
    lost ??= new Date();
    setText(element("contact"), `No contact with nodens since ${lost.toLocaleTimeString()}. What is shown is older; trying again.`);
  }
  clearTimeout(timer);
  timer = setTimeout(read, PAUSE);
}

element("pause").hidden = false;
element("pause").addEventListener("click", () => {
  paused = !paused;
  setText(element("pause"), paused ? "Go on" : "Pause");
  read();
});
document.addEventListener("visibilitychange", read);

// --- asking -------------------------------------------------------------------------------------------------------------

function answered(answers) {
  if (answers.answered_here !== null) return `Nobody was asked: ${answers.answered_here}.`;
  const as = answers.asked_as === null ? "" : ` as ${answers.asked_as}`;
  const said = answers.servers.filter((server) => server.rcode !== null);
  return `${answers.name} ${answers.type}${as}, route ${answers.route}: ${said.length} of ${answers.servers.length} servers answered.`;
}

async function ask(event) {
  event.preventDefault();
  const button = element("ask-button");
  button.disabled = true;
  setText(element("ask-result"), "Asking…");
  try {
    const response = await fetch("/ask", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: element("ask-name").value.trim(), type: element("ask-type").value }),
      signal: AbortSignal.timeout(2 * PATIENCE),
    });
    if (!response.ok) throw new Error((await response.text()).trim());
    const answers = await response.json();
    fill("answers", answers.servers.map((one) => [
      one.server, one.group, { text: one.state, state: one.state }, one.transport, milliseconds(one.milliseconds),
      one.rcode ?? "", one.failure ?? (one.records.join("\n") || "no records"),
    ]));
    setText(element("ask-result"), answered(answers));
  } catch (error) {
    fill("answers", []);
    setText(element("ask-result"), `Not asked: ${error.message}`);
  }
  button.disabled = false;
  button.focus();
}

if (document.currentScript.hasAttribute("data-may-ask")) {
  element("ask").hidden = false;
  element("ask-form").addEventListener("submit", ask);
}
read();
