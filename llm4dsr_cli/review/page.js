"use strict";
// Titles and users are texts of strangers: everything here is made of text nodes, nothing of HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const CHUNK = 40; // edits that are drawn at once; more when somebody comes near the end
const AROUND = 12; // items of a long sequence to each side of the edited one
const DONE = { drop: "dropped", replace: "replaced", mark: "marked" };
const $ = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en");
const many = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const chance = (p) => p.toFixed(3);
const percent = (p) => `${Math.round(p * 100)}%`;
const titleOf = (t) => (t < 0 ? "(no title)" : data.titles[t]);

function make(tag, name, ...inner) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...inner);
  return element;
}

function drawn(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

const edits = data.edits.map(([record, position, action, title, p, proposal], index) => {
  const [line, place, user, length, sequence] = data.records[record];
  return { index, record, position, action: data.actions[action], title, p, proposal, line, place, user, length, sequence };
});
const actionAt = new Map(edits.map((e) => [`${e.record} ${e.position}`, e]));

// --- what is taken back, kept by the browser for the next visit -------------------------------------------------------

const key = `llm4dsr ${data.audit} ${edits.length} ${edits.reduce((sum, e) => (sum * 31 + e.line * 7 + e.position + Math.round(e.p * 1e5)) % 1e9, 7)}`;
const back = new Set();
try {
  for (const index of JSON.parse(localStorage.getItem(key) || "[]")) if (edits[index]) back.add(index);
} catch { /* a browser that keeps nothing */ }

function toggle(edit) {
  if (!back.delete(edit.index)) back.add(edit.index);
  try { localStorage.setItem(key, JSON.stringify([...back])); } catch { /* likewise */ }
  for (const other of list.children) if (shown[other.index].record === edit.record) fill(other, shown[other.index]);
  tellBack();
}

function listOfBack() {
  const chosen = edits.filter((e) => back.has(e.index)).sort((a, b) => a.line - b.line || a.position - b.position);
  const lines = chosen.map((e) => `${e.line} ${e.position}  # ${titleOf(e.title)}`);
  return [`# edits of ${data.audit} to take back: ${data.unit} of the output, position of the item`, ...lines, ""].join("\n");
}

function tellBack() {
  $("download").disabled = !back.size;
  $("download").textContent = back.size ? `Take back ${number(back.size)}` : "Take back";
  if (!back.size) $("how").hidden = true;
}

$("download").addEventListener("click", () => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([listOfBack()], { type: "text/plain" }));
  link.download = "undo.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  const command = `llm4dsr undo ${data.audit} CLEANED RESTORED --only undo.txt`;
  $("how").replaceChildren("Saved as undo.txt. Then: ", make("code", "", command));
  $("how").hidden = false;
});

// --- the list ---------------------------------------------------------------------------------------------------------

const list = $("list");
let shown = [];
let current = -1;
// The last entry tells how it is now; several may have gathered.
const nearEnd = new IntersectionObserver((entries) => { if (entries.at(-1).isIntersecting) drawMore(); }, { rootMargin: "1200px" });

function outcome(edit) {
  const limit = data.thresholds.length === 1 ? ` ${chance(data.thresholds[0])}` : "";
  return `${DONE[edit.action]}, above the threshold${limit}`;
}

function proposed(edit) {
  const [title, p, proposer, scores] = edit.proposal;
  const told = Object.entries(scores).map(([name, value]) => `, ${name.replaceAll("_", " ")} ${value}`).join("");
  const about = `noise ${chance(p)} in that place, proposed by ${proposer}${told}`;
  if (edit.action === "replace") return make("p", "why", "in its place ", make("b", "", titleOf(title)), `: ${about}`);
  return make("p", "why", `nothing fitted in its place, “${titleOf(title)}” neither: ${about}`);
}

function chip(edit, [position, title, p]) {
  const item = make("li", "item");
  const other = actionAt.get(`${edit.record} ${position}`);
  const done = other && !back.has(other.index) ? other.action : "";
  item.style.setProperty("--p", p ?? 0);
  item.title = p === null ? "not judged" : `noise ${chance(p)}`;
  if (p === null) item.classList.add("unknown");
  if (position === edit.position) item.classList.add("this");
  if (done === "drop" || done === "replace") {
    item.classList.add("gone");
    item.append(make("s", "", titleOf(title)));
  } else item.append(titleOf(title));
  if (p !== null && p >= 0.1) item.append(" ", make("small", "", p.toFixed(2)));
  if (done === "replace") item.append(" → ", make("em", "", titleOf(other.proposal[0])));
  return item;
}

function sequence(edit) {
  const near = edit.length > 2 * AROUND + 8 ? edit.sequence.filter(([i]) => Math.abs(i - edit.position) <= AROUND) : edit.sequence;
  const chips = make("ol", "sequence");
  let next = 0;
  const gap = (n) => { if (n > 0) chips.append(make("li", "gap", `${number(n)} more`)); };
  for (const entry of near) {
    gap(entry[0] - next);
    chips.append(chip(edit, entry));
    next = entry[0] + 1;
  }
  if (near.length) gap(edit.length - next);
  return chips;
}

function fill(row, edit) {
  const kept = !back.has(edit.index);
  row.classList.toggle("back", !kept);
  const box = row.firstChild;
  box.checked = kept;
  const p = make("span", "chance", chance(edit.p));
  p.style.setProperty("--p", edit.p);
  const who = [edit.user, `${data.unit} ${number(edit.line)}`].filter(Boolean).join(" · ");
  const about = make("span", "who", who);
  about.title = edit.place;
  const head = make("div", "head", p, make("strong", "", titleOf(edit.title)), make("span", "", outcome(edit)), about);
  row.lastChild.replaceChildren(head, ...(edit.proposal ? [proposed(edit)] : []), sequence(edit));
}

function row(edit, index) {
  const box = make("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `keep this edit: ${titleOf(edit.title)} ${DONE[edit.action]}`);
  box.addEventListener("change", () => toggle(edit));
  const element = make("li", "edit", box, make("div"));
  element.index = index;
  element.addEventListener("pointerdown", () => point(index, false));
  fill(element, edit);
  return element;
}

function drawMore() {
  const from = list.children.length;
  list.append(...shown.slice(from, from + CHUNK).map((edit, i) => row(edit, from + i)));
  // Looked at anew: an end that was in sight before, and still is, would not be told again.
  nearEnd.disconnect();
  if (list.children.length < shown.length) nearEnd.observe($("more"));
}

function point(index, moves = true) {
  if (index < 0 || index >= shown.length) return;
  while (index >= list.children.length) drawMore();
  list.children[current]?.classList.remove("current");
  current = index;
  const element = list.children[index];
  element.classList.add("current");
  if (moves) {
    element.firstChild.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }
}

// --- searching --------------------------------------------------------------------------------------------------------

let texts = null; // of the edits, in small letters; made at the first search

function textOf(edit) {
  const titles = [edit.title, edit.proposal ? edit.proposal[0] : -1, ...edit.sequence.map((entry) => entry[1])];
  return [edit.user, ...titles.filter((t) => t >= 0).map(titleOf)].join("\n").toLowerCase();
}

function matches(query) {
  const exact = /^(user|item):(.*)$/s.exec(query);
  if (exact) return (edit) => (exact[1] === "user" ? edit.user : titleOf(edit.title)) === exact[2];
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return () => true;
  texts ??= edits.map(textOf);
  return (edit) => words.every((word) => texts[edit.index].includes(word));
}

function search() {
  const found = matches($("search").value.trim());
  const action = $("action").value;
  const order = $("order").value;
  shown = edits.filter((e) => (!action || (action === "back" ? back.has(e.index) : e.action === action)) && found(e));
  if (order !== "file") shown.sort((a, b) => (order === "most" ? b.p - a.p : a.p - b.p) || a.index - b.index);
  $("count").textContent = shown.length === edits.length ? many(edits.length, "edit") : `${number(shown.length)} of ${many(edits.length, "edit")}`;
  current = -1;
  list.replaceChildren();
  drawMore();
}

for (const id of ["search", "action", "order"]) $(id).addEventListener("input", search);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target;
  if (at === $("search")) {
    if (event.key === "Escape") { $("search").blur(); point(Math.max(0, current)); }
    return;
  }
  if (at.tagName === "SELECT") return;
  if (event.key === "j") point(current + 1);
  else if (event.key === "k") point(current - 1);
  else if (event.key === "/") { $("search").focus(); $("search").select(); }
  else if (event.key === " " && current >= 0 && at.tagName !== "BUTTON" && at.type !== "checkbox") toggle(shown[current]);
  else return;
  event.preventDefault();
});

// --- the panels -------------------------------------------------------------------------------------------------------

function histogram() {
  const { all, edited } = data.histogram;
  const [width, height, left, bottom, top] = [420, 170, 36, 20, 14];
  const most = Math.max(1, ...all, ...edited);
  const x = (p) => left + p * (width - left - 6);
  const y = (n) => height - bottom - (Math.log10(1 + n) / Math.log10(1 + most)) * (height - bottom - top);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (let n = 1; n <= most; n *= 10) {
    svg.append(drawn("line", { class: "axis", x1: left, x2: width - 6, y1: y(n), y2: y(n) }));
    svg.append(drawn("text", { x: left - 6, y: y(n) + 4, "text-anchor": "end" }, number(n)));
  }
  for (const [counts, name] of [[all, "all"], [edited, "edited"]]) {
    counts.forEach((n, bin) => {
      if (!n) return;
      const from = x(bin / counts.length) + 0.5;
      const to = x((bin + 1) / counts.length) - 0.5;
      const bar = drawn("rect", { class: name, x: from, width: to - from, y: y(n), height: height - bottom - y(n), rx: 1 });
      bar.append(drawn("title", {}, `${(bin / counts.length).toFixed(3)} to ${((bin + 1) / counts.length).toFixed(3)}: ${number(n)} ${name === "all" ? "items" : "edited"}`));
      svg.append(bar);
    });
  }
  for (const p of [0, 0.25, 0.5, 0.75, 1]) svg.append(drawn("text", { x: x(p), y: height - 5, "text-anchor": p === 1 ? "end" : "middle" }, String(p)));
  for (const threshold of data.thresholds.slice(0, 3)) {
    svg.append(drawn("line", { class: "threshold", x1: x(threshold), x2: x(threshold), y1: top - 4, y2: height - bottom }));
    const end = threshold > 0.75;
    svg.append(drawn("text", { class: "mark", x: x(threshold) + (end ? -5 : 5), y: top + 4, "text-anchor": end ? "end" : "start" }, `threshold ${chance(threshold)}`));
  }
  const items = all.reduce((sum, n) => sum + n, 0);
  const what = data.scored ? `all ${many(items, "judged item")} of ${data.scored.name}` : `the ${many(items, "judged item")} of edited records (report --scored shows all)`;
  svg.setAttribute("aria-label", `Noise probabilities of ${what}, and of ${many(edits.length, "edit")}`);
  const other = data.scored && !data.scored.same ? ` The scores of ${data.scored.name} are others than the edits were judged by: the model's alone, without counts, or another model's.` : "";
  $("histogram").append(svg);
  $("histogram-note").textContent = `Grey: ${what}. Orange: the edited ones. The counts are on a logarithmic scale.${other}`;
}

function precision() {
  const box = $("precision");
  const mean = data.mean === null ? "" : `The edits' mean noise probability is ${chance(data.mean)}.`;
  if (data.expected) {
    const rows = make("dl", "share");
    for (const [noise, right] of Object.entries(data.expected)) {
      const gauge = make("div", "gauge", make("i"));
      gauge.style.setProperty("--w", right);
      rows.append(make("dt", "", `${percent(noise)} noise`), gauge, make("dd", "", percent(right)));
    }
    box.append(rows, make("p", "note", `Share of the edits that is right, if so much of the data is noise like that which was put in to measure by. ${mean}`));
  } else box.append(make("p", "note", `Not measured: this run put no noise in to measure by, or edited by another rule than a share. ${mean}`));
}

function most(id, rows, kind, name) {
  $(id).append(...rows.map(([one, n]) => {
    const button = make("button", "", make("span", "", name(one)), make("b", "", number(n)));
    button.type = "button";
    button.title = "show these edits";
    button.addEventListener("click", () => {
      $("search").value = `${kind}:${name(one)}`;
      search();
      $("search").scrollIntoView({ block: "nearest" });
    });
    return make("li", "", button);
  }));
  if (!rows.length) $(id).append(make("li", "note", "none is named"));
}

const done = data.actions.map((action) => [action, edits.filter((e) => e.action === action).length]).filter(([, n]) => n);
for (const [action, n] of done) if (done.length > 1) $("action").append(new Option(`${DONE[action]} (${number(n)})`, action));
const of = data.scored ? ` of ${number(data.scored.items)} items` : "";
$("facts").textContent = [
  data.audit,
  edits.length ? `${done.map(([action, n]) => `${number(n)} ${DONE[action]}`).join(", ")}${of}` : "nothing was edited",
  `${many(data.records.length, "record")}`,
  ...(data.users ? [many(data.users, "user")] : []),
].join(" · ");
document.title = `What was edited: ${data.audit}`;
histogram();
precision();
most("items", data.mostItems, "item", titleOf);
most("users", data.mostUsers, "user", (user) => user);
tellBack();
search();
document.documentElement.dataset.ready = Math.round(performance.now()); // for tests: milliseconds until all of it is there
