"use strict";
// Everything that comes from the data is shown with textContent, so that it is never markup.

const $ = (id) => document.getElementById(id);
const state = { about: null, example: null, history: [], view: "one", page: 0, busy: 0, running: Promise.resolve(), selected: new Set(), tiles: [], settles: false };

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

const className = (label) => state.about.classes[label];
const number = (value) => Math.round(value).toLocaleString("en");
const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const percent = (p) => (100 * p).toFixed(p > 0.995 || p < 0.005 ? 1 : 0) + "\u00a0%";

function filter() {
  const [given, suggested] = ($("pair").value || "-1,-1").split(",").map(Number);
  const chosen = { status: $("status").value, given, suggested, query: $("query").value, suspects: $("suspects").checked };
  for (const limit of ["least", "most"]) if ($(limit).value !== "") chosen[limit] = $(limit).value;
  return chosen;
}

async function ask(path, values = null, query = {}) {
  const reviewer = $("reviewer").value;
  const options = values === null ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ reviewer, ...filter(), ...values }) };
  const search = values === null ? "?" + new URLSearchParams({ reviewer, ...filter(), ...query }) : "";
  let answer;
  try {
    const response = await fetch(path + search, options);
    answer = await response.json();
  } catch (error) {
    answer = { error: "the server does not answer; start emphasis review again, then reload this page: what was saved is kept" };
  }
  $("message").hidden = !answer.error;
  $("message").textContent = answer.error ? "Not saved: " + answer.error : "";
  if (answer.error) throw new Error(answer.error);
  if (answer.summary) showCounts(answer.summary);
  return answer;
}

function showCounts(summary) {
  state.about.summary = summary;
  $("counts").textContent = `${number(summary.reviewed)} of ${number(summary.examples)} reviewed, ${number(summary.corrected)} wrong`;
  $("progress").max = Math.max(1, summary.suspects);
  $("progress").value = summary.suspects_reviewed;
  if (state.view === "summary") showSummary();
}

// One example

function picture(index, small) {
  const image = element("img");
  image.src = `picture/${index}` + (small ? "?small" : "");
  image.alt = `example ${index}`;
  if (!small) image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 256));
  return image;
}

function showContent(example) {
  const content = example.content, parts = [];
  if (content.kind === "image") parts.push(picture(example.index, false));
  if (content.text) parts.push(element("p", content.text, "text"));
  if (content.columns && content.columns.length) {
    const table = element("table"), body = element("tbody");
    for (const column of content.columns) {
      const row = element("tr", "", column.odd ? "odd" : "");
      const name = element("th", column.name);
      name.scope = "row";
      row.append(name, element("td", column.value + (column.odd ? " (unusual)" : "")), element("td", column.usual, "soft"));
      body.append(row);
    }
    table.append(body);
    parts.push(table);
  }
  $("content").replaceChildren(...parts);
}

function show(example, settles = false) {
  state.example = example;
  state.settles = settles || $("status").value === "disputed";
  for (const id of ["keep", "suggestion", "other", "unsure", "skip"]) $(id).disabled = !example;
  $("comment").value = "";
  if (!example) {
    $("content").replaceChildren(element("p", "Nothing is left to review here. Change the filter, or look at the progress."));
    for (const id of ["where", "given", "suggested"]) $(id).textContent = "";
    for (const id of ["votes", "nearest"]) $(id).replaceChildren();
    $("likely").tBodies[0].replaceChildren();
    $("likely").hidden = true;
    return;
  }
  showContent(example);
  $("where").textContent = (example.source ? example.source + ", " : "") + `row ${number(example.row)}, score ${example.score}`;
  $("given").textContent = className(example.given);
  $("suggested").textContent = example.given === example.suggested ? "none" : className(example.suggested);
  $("suggestion").disabled = example.given === example.suggested;
  $("votes").replaceChildren(...example.votes.map((vote) => element("li", `${vote.reviewer || "unnamed"}: ${vote.action === "unsure" ? "unsure" : vote.after}${vote.comment ? ", " + vote.comment : ""}`)));
  $("likely").hidden = !example.likely.length;
  $("likely").tBodies[0].replaceChildren(...example.likely.map(([label, p]) => {
    const row = element("tr"), bar = element("meter"), cell = element("td");
    bar.value = p;
    bar.setAttribute("aria-label", percent(p));
    cell.append(bar);
    row.append(element("td", className(label), "text"), cell, element("td", percent(p)));
    return row;
  }));
  $("nearest").className = example.content.kind === "image" ? "" : "texts";
  $("nearest").replaceChildren(...Object.entries(example.nearest).filter(([, near]) => near.length).map(([label, near]) => {
    const column = element("div"), list = element("ul");
    column.append(element("h2", `Nearest with the label ${className(label)}`), list);
    list.append(...near.map((tile) => {
      const item = element("li", tile.text);
      if (!tile.text) item.append(picture(tile.index, true));
      return item;
    }));
    return column;
  }));
}

// Runs one piece of work at a time. A decision that is asked for while another one is being saved is dropped, since it
// would be about an example that is not on the screen yet; everything else waits.
function guarded(work, drops = false) {
  if (drops && state.busy) return state.running;
  state.busy += 1;
  state.running = state.running.then(async () => {
    try { await work(); } catch { /* ask has shown the message */ } finally { state.busy -= 1; }
  });
  return state.running;
}

const next = () => guarded(async () => show((await ask("api/next")).example));

const decide = (action, label = -1) => guarded(async () => {
  if (!state.example || (action === "suggestion" && state.example.given === state.example.suggested)) return;
  const index = state.example.index;
  const answer = await ask("api/decide", { examples: [index], action, label, comment: $("comment").value, settles: state.settles });
  state.history.push(index);
  show(answer.example);
}, true);

const skip = () => guarded(async () => {
  if (!state.example) return;
  state.history.push(state.example.index);
  show((await ask("api/skip", { example: state.example.index })).example);
}, true);

const open = (index, settles = false) => guarded(async () => {
  setView("one");
  show((await ask(`api/example/${index}`)).example, settles);
});

const back = () => state.history.length ? open(state.history.pop()) : null;

// Another class

function listClasses() {
  const wanted = $("class-query").value.toLocaleLowerCase();
  const matching = state.about.classes.map((name, label) => [name, label]).filter(([name]) => name.toLocaleLowerCase().includes(wanted));
  matching.sort((a, b) => Number(b[0].toLocaleLowerCase().startsWith(wanted)) - Number(a[0].toLocaleLowerCase().startsWith(wanted)));
  $("class-list").replaceChildren(...matching.slice(0, 100).map(([name, label]) => {
    const item = element("li", name);
    item.setAttribute("role", "option");
    item.id = `class-${label}`;
    item.dataset.label = label;
    item.addEventListener("click", () => chooseClass(label));
    return item;
  }));
  moveClass(0);
}

function openClasses() {
  if (!state.example) return;
  $("class-query").value = "";
  listClasses();
  $("classes").showModal();
  $("class-query").focus();
}

function chooseClass(label) {
  $("classes").close();
  decide(label === state.example.given ? "keep" : "other", Number(label));
}

function moveClass(step) {
  const items = [...$("class-list").children];
  const place = Math.max(0, items.findIndex((item) => item.getAttribute("aria-selected") === "true"));
  const chosen = items[Math.min(Math.max(place + step, 0), items.length - 1)];
  items.forEach((item) => item.setAttribute("aria-selected", String(item === chosen)));
  $("class-query").setAttribute("aria-activedescendant", chosen ? chosen.id : "");
  if (chosen) chosen.scrollIntoView({ block: "nearest" });
}

// Grid

async function loadGrid() {
  const answer = await ask("api/list", null, { page: state.page });
  if (state.page && state.page >= answer.pages) { state.page = Math.max(0, answer.pages - 1); return loadGrid(); }
  state.tiles = answer.examples;
  state.selected = new Set(answer.examples.map((tile) => tile.index));
  $("page").textContent = `${counted(answer.total, "example")}, page ${number(answer.page + 1)} of ${number(Math.max(1, answer.pages))}`;
  $("previous").disabled = answer.page === 0;
  $("following").disabled = answer.page + 1 >= answer.pages;
  showTiles();
}

function showTiles() {
  $("tiles").replaceChildren(...state.tiles.map((tile) => {
    const item = element("li");
    item.append(tile.text ? element("div", tile.text, "snippet") : picture(tile.index, true));
    item.append(element("b", className(tile.given)), tile.given === tile.suggested ? "" : " \u2192 " + className(tile.suggested));
    if (tile.decided.length) item.append(element("div", tile.decided.join(", "), "soft"));
    item.tabIndex = 0;
    item.setAttribute("role", "option");
    const mark = () => item.setAttribute("aria-selected", String(state.selected.has(tile.index)));
    const toggle = () => { state.selected.has(tile.index) ? state.selected.delete(tile.index) : state.selected.add(tile.index); mark(); countSelected(); };
    item.addEventListener("click", toggle);
    item.addEventListener("dblclick", () => open(tile.index));
    item.addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); toggle(); } });
    mark();
    return item;
  }));
  countSelected();
}

function countSelected() {
  $("grid-suggestion").textContent = `Take the suggestion for ${number(state.selected.size)}`;
  $("grid-keep").textContent = `Keep ${number(state.selected.size)}`;
  $("grid-suggestion").disabled = $("grid-keep").disabled = !state.selected.size;
}

const decideGrid = (action) => guarded(async () => {
  const chosen = state.tiles.filter((tile) => state.selected.has(tile.index) && (action === "keep" || tile.given !== tile.suggested));
  if (!chosen.length) return;
  await ask("api/decide", { examples: chosen.map((tile) => tile.index), action, then_next: false });
  await loadGrid();
}, true);

function selectAll(on) {
  state.selected = new Set(on ? state.tiles.map((tile) => tile.index) : []);
  showTiles();
}

// Progress

function showSummary() {
  const s = state.about.summary, rest = s.remaining, parts = [];
  const line = (text) => parts.push(element("p", text));
  parts.push(element("h2", "So far"));
  line(`${number(s.reviewed)} of ${counted(s.examples, "example")} are reviewed: ${counted(s.corrected, "label")} ${s.corrected === 1 ? "was" : "were"} wrong, ${number(s.confirmed)} right, ${number(s.unsure)} unsure, ${number(s.disputed)} disputed.`);
  line(s.suspects_reviewed ? `Of ${counted(s.suspects_reviewed, "suspect")} reviewed, ${number(s.suspects_wrong)} ${s.suspects_wrong === 1 ? "was" : "were"} wrong (${percent(s.suspects_wrong / s.suspects_reviewed)}); ${number(s.suspects - s.suspects_reviewed)} of the suspects are left.` : `None of ${counted(s.suspects, "suspect")} is reviewed yet.`);
  parts.push(element("h2", "What remains"));
  line(rest.draws < 5 ? "Every tenth example is drawn at random, whether suspect or not. After a few more of these, an estimate of the wrong labels that remain stands here." : `About ${counted(Math.round(rest.count), "wrong label")} remain${Math.round(rest.count) === 1 ? "s" : ""} among the ${counted(rest.unreviewed, "example")} that nobody has reviewed (${percent(rest.level)} interval: ${number(rest.low)} to ${number(rest.high)}), by ${counted(rest.draws, "example")} drawn at random.`);
  if (s.outlook) {
    line(`Another ${number(s.outlook.next_examples)} will find about ${number(s.outlook.finds)} more.`);
    if (s.outlook.worth_until >= 0) line(s.outlook.worth_until ? `After about ${number(s.outlook.worth_until)} more, fewer than 1 in 20 will be wrong.` : "Fewer than 1 in 20 of the next ones will be wrong: going on is hardly worth it.");
  } else line("After 25 decisions, a forecast of what the next ones will find stands here.");
  line(s.learned ? "The order is learned from the decisions so far, and learned anew after every 25." : "The order is the audit's until enough labels were found right and wrong to learn from.");
  parts.push(element("h2", "Reviewers"));
  for (const [name, count] of Object.entries(s.by_reviewer)) line(`${name || "unnamed"}: ${counted(count, "decision")}`);
  for (const pair of s.agreement) line(`${pair.reviewers.map((name) => name || "unnamed").join(" and ")}: ${counted(pair.both, "example")} in common` + (pair.both ? `, ${percent(pair.observed)} alike, Cohen's kappa ${pair.kappa === null ? "not defined" : pair.kappa.toFixed(2)}, ${number(pair.differ)} different` : ""));
  const button = element("button", `Look at ${counted(s.disputed, "disagreement")}`);
  button.disabled = !s.disputed;
  button.addEventListener("click", async () => {
    $("status").value = "disputed";
    describeFilter();
    let disputed = [];
    await guarded(async () => { disputed = (await ask("api/list")).examples; });
    if (disputed.length) open(disputed[0].index, true);
  });
  parts.push(button);
  $("summary").replaceChildren(...parts);
}

// Views, keys and start

function setView(view) {
  state.view = view;
  for (const name of ["one", "grid", "summary"]) {
    $(name).hidden = name !== view;
    $("tab-" + name).setAttribute("aria-pressed", String(name === view));
  }
}

function goTo(view) {
  setView(view);
  if (view === "grid") guarded(loadGrid);
  if (view === "one") next();
  if (view === "summary") guarded(() => ask("api/summary"));
}

function describeFilter() {
  const chosen = filter(), parts = [];
  if (chosen.status !== "open") parts.push($("status").selectedOptions[0].textContent);
  if (chosen.given >= 0) parts.push($("pair").selectedOptions[0].textContent);
  if (chosen.query) parts.push(`contains "${chosen.query}"`);
  if (chosen.least !== undefined || chosen.most !== undefined) parts.push(`score ${chosen.least ?? ""} to ${chosen.most ?? ""}`);
  if (chosen.suspects) parts.push("suspects only");
  $("filter-text").textContent = parts.join(", ");
}

const KEYS = { k: () => decide("keep"), s: () => decide("suggestion"), o: openClasses, u: () => decide("unsure"), n: skip, b: back, c: () => $("comment").focus(), g: () => goTo(state.view === "grid" ? "one" : "grid"), p: () => goTo("summary") };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (event.target.id === "class-query") {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const chosen = $("class-list").querySelector('[aria-selected="true"]');
    if (step) moveClass(step);
    if (event.key === "Enter" && chosen) chooseClass(Number(chosen.dataset.label));
    if (step || event.key === "Enter") event.preventDefault();
  } else if (inField) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "comment")) event.target.blur();
  } else if (KEYS[event.key.toLowerCase()] && !$("classes").open && !event.repeat) {
    if (state.view !== "one" && !"gp".includes(event.key.toLowerCase())) return;
    event.preventDefault();
    KEYS[event.key.toLowerCase()]();
  }
}

async function start() {
  const stored = new URLSearchParams(location.search).get("reviewer") ?? localStorage.getItem("emphasis-reviewer");
  if (stored) $("reviewer").value = stored;
  const about = await (await fetch("api/session?" + new URLSearchParams({ reviewer: $("reviewer").value }))).json();
  state.about = about;
  if (!$("reviewer").value) $("reviewer").value = about.reviewer;
  document.title = `Review: ${about.title}`;
  $("title").textContent = about.title;
  state.history = about.latest.slice().reverse();
  for (const [given, suggested, count] of about.pairs) {
    const option = element("option", `${className(given)} \u2192 ${className(suggested)} (${number(count)})`);
    option.value = `${given},${suggested}`;
    $("pair").append(option);
  }
  showCounts(about.summary);
  for (const view of ["one", "grid", "summary"]) $("tab-" + view).addEventListener("click", () => goTo(view));
  for (const action of ["keep", "suggestion", "unsure"]) $(action).addEventListener("click", () => decide(action));
  $("other").addEventListener("click", openClasses);
  $("skip").addEventListener("click", skip);
  $("back").addEventListener("click", back);
  $("class-query").addEventListener("input", listClasses);
  $("class-close").addEventListener("click", () => $("classes").close());
  $("reviewer").addEventListener("change", () => { localStorage.setItem("emphasis-reviewer", $("reviewer").value); goTo(state.view); });
  $("grid-suggestion").addEventListener("click", () => decideGrid("suggestion"));
  $("grid-keep").addEventListener("click", () => decideGrid("keep"));
  $("grid-none").addEventListener("click", () => selectAll(false));
  $("grid-all").addEventListener("click", () => selectAll(true));
  $("previous").addEventListener("click", () => { state.page -= 1; guarded(loadGrid); });
  $("following").addEventListener("click", () => { state.page += 1; guarded(loadGrid); });
  $("filter-form").addEventListener("submit", (event) => { event.preventDefault(); state.page = 0; describeFilter(); goTo(state.view); });
  $("filter-form").addEventListener("reset", () => setTimeout(() => { state.page = 0; describeFilter(); goTo(state.view); }));
  document.addEventListener("keydown", onKey);
  await next();
}

start();
