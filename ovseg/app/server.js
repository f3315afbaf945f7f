// The page with its server: pictures and maps by request, changes as they come, in this page or in another.

const app = data.app;
const FROM = `&v=${app.epoch}`; // pictures of another server are none of ours
const done = (row) => row.state === "done";

const SERVER = {
  picture: (number, suffix) => {
    const { id, version } = data.images[number];
    const kind = { ".jpg": "photo", ".thumb.jpg": "thumb", ".png": "tint" }[suffix];
    return `/api/picture?id=${encodeURIComponent(id)}&kind=${kind}${FROM}${kind === "tint" ? version : ""}`;
  },
  maps: async (number) => {
    const { row, maps } = await get(`/api/maps?id=${encodeURIComponent(data.images[number].id)}`);
    takeRow(row);
    if (detail.number === number) showRow();
    if (!maps) throw new Error(row.note || "Not labelled yet: type names and ask");
    return maps;
  },
};

async function request(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("The server does not answer; is `ovseg app` still running?");
  }
  const json = answer.headers.get("content-type")?.startsWith("application/json");
  const content = json ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Error(content.error || `The server says ${answer.status}`);
  return content;
}

const get = (address) => request(address);
const post = (address, body) => request(address, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });

function tell(error) {
  $("told").textContent = error ? error.message || String(error) : "";
  $("told").hidden = !error;
  if ($("detail").open) note(error ? error.message : "");
}

// ---- Rows and names that changed.

/** Take up an image's row; returns its number. Cards that are drawn are drawn anew. */
function takeRow(row) {
  let number = numbers.get(row.id);
  if (number === undefined) {
    number = data.images.push(row) - 1;
    numbers.set(row.id, number);
    return number;
  }
  const before = data.images[number];
  data.images[number] = row;
  if (before.version !== row.version || before.state !== row.state) {
    const place = shown.indexOf(number);
    if (place >= 0 && place < made) $("gallery").children[place].replaceWith(card(number));
  }
  return number;
}

function takeRows(rows) {
  const count = data.images.length;
  const open = detail.number;
  const before = open >= 0 ? data.images[open] : null;
  rows.forEach(takeRow);
  if (data.images.length > count) { takeImages(); showGallery(); }
  if (before && before.version !== data.images[open].version) reopen();
}

/** What is shown of the open image's row, which came or changed. */
function showRow() {
  detail.row = data.images[detail.number];
  $("stack").style.setProperty("--aspect", detail.row.width / detail.row.height || 1);
  showViews();
  showChips();
  showAbout();
  showTools();
}

/** Show the open image anew, as it is now. */
function reopen() {
  const { number, row } = detail;
  recent.delete(number);
  if (!done(row) && done(data.images[number])) state.view = "overlay";
  openDetail(number);
}

/** Names, statistics and facts of the run. */
function takeLegend(legend) {
  const names = (classes) => classes.map((one) => one.name).join("\n");
  const other = names(legend.classes) !== names(data.classes);
  Object.assign(data, { classes: legend.classes, statistics: legend.statistics, facts: legend.facts, summary: legend.summary, title: legend.title });
  if (state.only >= data.classes.length) state.only = -1;
  showHeader();
  showStatistics();
  showChoices();
  showNames();
  if (other) { state.hidden.clear(); recent.clear(); showGallery(); }
  $("out").hidden = !data.images.some(done);
  return other;
}

async function loadRows() {
  for (let from = 0; ; ) {
    const { rows, total, legend } = await get(`/api/rows?from=${from}`);
    rows.forEach(takeRow);
    from += rows.length;
    if (legend) takeLegend(legend);
    if (!rows.length || from >= total) break;
  }
  takeImages();
  if (state.sort !== "name" || state.only >= 0 || data.images.length !== shown.length) showGallery();
}

// ---- What goes on: asked for now and then, more often while images are labelled.

let revision = app.revision;
let waitingForState = 0;

async function poll() {
  clearTimeout(waitingForState);
  let busy = false;
  try {
    const answer = await get(`/api/state?seen=${revision}`);
    if (answer.epoch !== app.epoch) return location.reload();
    revision = answer.revision;
    busy = ["loading", "working"].includes(answer.progress.state);
    const other = answer.legend && takeLegend(answer.legend);
    if (answer.all) await loadRows();
    else takeRows(answer.rows);
    if (other && detail.number >= 0 && !answer.rows.some((row) => row.id === detail.row.id)) reopen();
    showState(answer);
  } catch (error) {
    showProgress({ state: "failed", text: error.message, done: 0, total: 0, notes: [] });
  }
  waitingForState = setTimeout(poll, busy ? 300 : document.hidden ? 15000 : 3000);
}

function showState(answer) {
  Object.assign(app, { readOnly: answer.readOnly, asked: answer.asked, out: answer.out });
  $("read-only").textContent = [answer.readOnly, app.note].filter(Boolean).join(" · ");
  $("read-only").hidden = !$("read-only").textContent;
  showProgress(answer.progress);
  showTools();
}
