// Shows what the master answers to /state-summary and /tasks, again and again, and kills a framework on request.
// Names and ids come from anybody: they reach the page as text alone, links only when they are http or https.
"use strict";

const REFRESH_MS = 1500;
const TASKS_SHOWN = 200;
const ACTIVE = new Set(["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"]);
const FAILED = ["TASK_FAILED", "TASK_LOST", "TASK_ERROR"];

const $ = (id) => document.getElementById(id);

/** An element with properties and children; a child that is text stays text. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function link(text, address, title = "") {
  let url;
  try { url = new URL(address, location.href); } catch { return text; }
  if (url.protocol !== "http:" && url.protocol !== "https:") return text;
  return make("a", { href: url.href, title, rel: "noopener noreferrer" }, text);
}

const number = (value) => Number(value.toFixed(2)).toString();

function memory(mb) {
  return mb >= 10240 ? `${number(Math.round(mb / 102.4) / 10)} GB` : `${number(Math.round(mb))} MB`;
}

function age(timestamp) {
  const s = Math.max(0, Math.round(Date.now() / 1000 - timestamp));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

/** What is used, and behind it what is offered, of a whole. */
function fill(bar, used, offered, total) {
  const part = (value) => `${total > 0 ? Math.min(100, (100 * value) / total) : 0}%`;
  if (bar.children.length === 0) bar.append(make("i"), make("i"));
  bar.children[0].style.width = part(used + offered);
  bar.children[1].style.width = part(used);
  return bar;
}

function gauge(used, offered, total, write) {
  const bar = fill(make("div", { className: "bar" }), used, offered, total);
  bar.title = `${write(used)} used, ${write(offered)} offered, of ${write(total)}`;
  return make("span", { className: "gauge" }, `${write(used)} / ${write(total)}`, bar);
}

function state(text, kind) {
  return make("span", { className: `state ${kind}` }, text);
}

function named(text, sub) {
  return make("div", {}, text, make("span", { className: "sub" }, sub));
}

/**
 * Brings a table's rows into line with `items`: a row that shows what it shall show already is left alone, so that
 * selections and the keyboard's focus survive a refresh. A column is [class, what it depends on, what it shows].
 */
function show(table, items, key, columns) {
  const body = $(table).tBodies[0];
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  let at = body.firstElementChild;
  for (const item of items) {
    const id = key(item);
    const row = old.get(id) ?? make("tr");
    old.delete(id);
    row.dataset.key = id;
    columns.forEach(([className, depends, content], index) => {
      const cell = row.cells[index] ?? row.insertCell();
      const now = JSON.stringify(depends(item));
      if (cell.dataset.shown === now) return;
      cell.dataset.shown = now;
      cell.className = className;
      cell.replaceChildren(...[content(item)].flat());
    });
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
  }
  for (const row of old.values()) row.remove();
  $(table).hidden = items.length === 0;
  $(table).nextElementSibling.hidden = items.length > 0;
}

const column = (className, depends, content = (item) => String(depends(item))) => [className, depends, content];

function showTotals({ slaves, frameworks }) {
  const sum = (which, name) => slaves.reduce((total, slave) => total + slave[which][name], 0);
  for (const [name, write] of [["cpus", number], ["mem", memory]]) {
    const [used, offered, total] = ["used_resources", "offered_resources", "resources"].map((which) => sum(which, name));
    $(`total-${name}`).textContent = `${write(used)} / ${write(total)}`;
    fill($(`bar-${name}`), used, offered, total);
  }
  $("total-tasks").textContent = frameworks.reduce((total, framework) => total + framework.TASK_RUNNING, 0);
  $("total-frameworks").textContent = frameworks.length;
  const active = slaves.filter((slave) => slave.active).length;
  $("total-agents").textContent = active === slaves.length ? active : `${active} / ${slaves.length}`;
}

function showFrameworks({ slaves, frameworks }) {
  const whole = (name) => slaves.reduce((total, slave) => total + slave.resources[name], 0);
  const [cpus, mem] = [whole("cpus"), whole("mem")];
  const failed = (framework) => FAILED.reduce((total, name) => total + framework[name], 0);
  const share = (name, total, write) => column("", (framework) => [framework.used_resources[name], framework.offered_resources[name], total],
    (framework) => gauge(framework.used_resources[name], framework.offered_resources[name], total, write));
  show("frameworks", frameworks, (framework) => framework.id, [
    column("", ({ name, id, webui_url }) => [name, id, webui_url],
      ({ name, id, webui_url }) => named(webui_url ? link(name, webui_url, "The framework's own page") : name, id)),
    column("", ({ connected }) => connected, ({ connected }) => connected ? state("connected", "good") : state("disconnected", "warn")),
    share("cpus", cpus, number),
    share("mem", mem, memory),
    column("n", (framework) => framework.TASK_RUNNING),
    column("n", (framework) => framework.TASK_STAGING + framework.TASK_STARTING),
    column("n", (framework) => framework.TASK_FINISHED),
    column("n", failed),
    column("n", (framework) => framework.TASK_KILLED),
    column("n", ({ name, id }) => [name, id], ({ name, id }) =>
      make("button", { className: "danger", type: "button", onclick: () => ask(name, id) }, "Kill")),
  ]);
}

function agentState({ active, paused, shuffle_service_down, troubles }) {
  if (!active) return state("disconnected", "warn");
  if (paused) return state("paused", "warn");
  if (shuffle_service_down) return state("no shuffle service", "warn");
  return troubles ? state("in trouble", "warn") : state("active", "good");
}

function showAgents({ slaves }) {
  const held = (name, write) => column("", (slave) => [slave.used_resources[name], slave.offered_resources[name], slave.resources[name]],
    (slave) => gauge(slave.used_resources[name], slave.offered_resources[name], slave.resources[name], write));
  show("agents", slaves, (slave) => slave.id, [
    column("", ({ hostname, port, id }) => [hostname, port, id],
      (slave) => named(link(`${slave.hostname}:${slave.port}`, address(slave, "/state"), "The agent's state"), slave.id)),
    column("", ({ active, paused, shuffle_service_down, troubles }) => [active, paused, shuffle_service_down, troubles],
      (slave) => named(agentState(slave), (slave.troubles ?? []).join("\n"))),
    held("cpus", number),
    held("mem", memory),
    column("n", (slave) => slave.TASK_RUNNING),
    column("id", ({ attributes }) => attributes,
      ({ attributes }) => Object.entries(attributes).map(([name, value]) => `${name}=${value}`).join(" ")),
  ]);
}

function address({ hostname, port }, path, query = {}) {
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  return `http://${host}:${port}${path}?${new URLSearchParams(query)}`;
}

/** Where a task's files lie on its agent; unknown until the agent has told the task's container. */
function sandbox(task) {
  const container = task.statuses.findLast((status) => status.container_status)?.container_status.container_id.value;
  const executor = task.executor_id || task.id;
  return container && `/slaves/${task.slave_id}/frameworks/${task.framework_id}/executors/${executor}/runs/${container}`;
}

function files(task, slave) {
  const path = sandbox(task);
  if (!path || !slave) return "";
  const file = (name) => link(name, address(slave, "/files/download", { path: `${path}/${name}` }), `Download ${name}`);
  return [link("browse", address(slave, "/files/browse", { path }), "Its files"), " · ", file("stdout"), " · ", file("stderr")];
}

function kindOf(name) {
  if (name === "TASK_RUNNING" || name === "TASK_FINISHED") return "good";
  if (ACTIVE.has(name) || name === "TASK_UNREACHABLE") return "warn";
  return name === "TASK_KILLED" ? "" : "bad";
}

function showTasks({ slaves, frameworks }, { tasks }) {
  const agents = new Map(slaves.map((slave) => [slave.id, slave]));
  const names = new Map(frameworks.map((framework) => [framework.id, framework.name]));
  const order = (task) => (ACTIVE.has(task.state) ? 0 : 1);
  tasks.sort((a, b) => order(a) - order(b));
  const since = (task) => task.statuses.at(-1)?.timestamp;
  const agent = (task) => agents.get(task.slave_id);
  show("tasks", tasks, (task) => `${task.framework_id} ${task.id} ${task.slave_id}`, [
    column("", ({ name, id }) => [name, id], ({ name, id }) => named(name, id)),
    column("", (task) => task.state, (task) => state(task.state.replace("TASK_", "").toLowerCase(), kindOf(task.state))),
    column("", (task) => names.get(task.framework_id) ?? task.framework_id),
    column("id", (task) => agent(task) ? `${agent(task).hostname}:${agent(task).port}` : task.slave_id),
    column("n", (task) => number(task.resources.cpus)),
    column("n", (task) => memory(task.resources.mem)),
    column("n", (task) => since(task) ? age(since(task)) : "–"),
    column("", (task) => [sandbox(task), agent(task)?.hostname, agent(task)?.port], (task) => files(task, agent(task))),
  ]);
  $("task-note").textContent = tasks.length === TASKS_SHOWN ? `the newest ${TASKS_SHOWN}` : "";
}

let asked = "";

function ask(name, id) {
  asked = id;
  $("confirm-name").textContent = name;
  $("confirm-id").textContent = id;
  $("confirm-error").textContent = "";
  $("confirm").showModal();
}

async function kill() {
  const answer = await fetch("teardown", { method: "POST", body: new URLSearchParams({ frameworkId: asked }) });
  if (!answer.ok) throw new Error(await answer.text());
}

$("confirm-no").onclick = () => $("confirm").close();
$("confirm-yes").onclick = async () => {
  $("confirm-yes").disabled = true;
  try {
    await kill();
    $("confirm").close();
    await refresh();
  } catch (error) {
    $("confirm-error").textContent = error.message;
  } finally {
    $("confirm-yes").disabled = false;
  }
};

async function read(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [summary, tasks] = await Promise.all([read("state-summary"), read(`tasks?limit=${TASKS_SHOWN}`)]);
    showTotals(summary);
    showFrameworks(summary);
    showAgents(summary);
    showTasks(summary, tasks);
    $("health").className = "good";
    $("health").textContent = "live";
  } catch (error) {
    $("health").className = "bad";
    $("health").textContent = `the master does not answer (${error.message})`;
  }
}

async function live() {
  if (!document.hidden) await refresh();
  setTimeout(live, REFRESH_MS);
}

$("how").textContent = `spark-submit --master mesos://${location.host} …`;
read("version").then(
  ({ bellows_version, version }) => { $("master").textContent = `master at ${location.host} · ${bellows_version} · Mesos API ${version}`; },
  () => {},
);
live();
