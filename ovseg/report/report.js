"use strict";
// The page: its data, theme, statistics and gallery; paint.js, detail.js and start.js follow in the same script; the page of
// `ovseg app` has the first three as well. The data are JSON in script
// elements, and names of files and classes only ever become text nodes. The maps of an image come when it is looked at:
// from a script element of the page, or from a file beside it.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const noLabel = () => data.classes.length - 1; // the last class of the page; maps have 255 or 65535 there
const BATCH = 60; // gallery cards that are made at a time
const state = { query: "", only: -1, sort: "name", opacity: 50 }; // only: the class that images must have, -1 for any
const { compare } = new Intl.Collator("en", { numeric: true });
let byName = []; // numbers of the images, by their names
let numbers = new Map(); // id -> number
let shown = []; // numbers of the images in the gallery, in its order
let made = 0; // how many of them have a card

/** Take note of which images there are. */
function takeImages() {
  byName = [...data.images.keys()].sort((a, b) => compare(data.images[a].id, data.images[b].id));
  numbers = new Map(data.images.map((row, number) => [row.id, number]));
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (share) => (share === null ? "–" : share >= 0.0995 || share === 0 ? `${Math.round(100 * share)} %`
  : share < 0.001 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`);
const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const swatch = (colour) => { const box = make("span", { className: "swatch" }); box.style.background = colour; return box; };

// ---- Theme: the system's until the switch is used; the choice is kept where the browser lets a page from disk keep it.

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme-name").textContent = theme === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Change to the ${theme === "dark" ? "light" : "dark"} theme`);
}

function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("ovseg-theme"); } catch { /* no storage for this page */ }
  const follow = () => setTheme(chosen || (system.matches ? "dark" : "light"));
  system.addEventListener("change", follow);
  $("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("ovseg-theme", chosen); } catch { /* then only until it is closed */ }
    follow();
  });
  follow();
}

// ---- Where pictures and maps come from.

const embedded = (number) => JSON.parse($(`image-${number}`).textContent);
const waiting = new Map(); // number -> what to call with the maps of a script that is loading
const recent = new Map(); // number -> promise of maps; a few of the last ones
window.ovsegReport = (number, maps) => waiting.get(number)?.(maps);

// Where files are: `picture` gives an address, `maps` a promise. Images are in the page, beside it, or with a server.
const EMBEDDED = { picture: (number, suffix) => embedded(number).pictures[suffix], maps: async (number) => embedded(number).maps };
const BESIDE = { picture: (number, suffix) => `${encodeURIComponent(data.folder)}/${number}${suffix}`, maps: (number) => loadScript(number) };
let source = data.folder ? BESIDE : EMBEDDED;

const picture = (number, suffix) => (data.images[number].pictures.includes(suffix) ? source.picture(number, suffix) : null);

function loadMaps(number) {
  if (!recent.has(number)) {
    recent.set(number, source.maps(number).then(unpackMaps));
    recent.get(number).catch(() => recent.delete(number));
    if (recent.size > 6) recent.delete(recent.keys().next().value);
  }
  return recent.get(number);
}

function loadScript(number) {
  return new Promise((resolve, reject) => {
    const script = make("script", { src: `${encodeURIComponent(data.folder)}/${number}.js` });
    const end = (action) => (value) => { waiting.delete(number); script.remove(); action(value); };
    waiting.set(number, end(resolve));
    script.onerror = end(() => { tellMissing(); reject(new Error(`${data.folder}/${number}.js is missing`)); });
    document.head.append(script);
  });
}

function tellMissing() {
  $("missing").textContent = `Some pictures are missing: the folder “${data.folder}” belongs beside this page.`;
  $("missing").hidden = false;
}

async function unpackMaps(maps) {
  const [labels, masks, differences, truth] = await Promise.all([maps.labels, maps.masks, maps.differences, maps.truth].map(unpack));
  const rows = new Map(maps.rows.map(([mask, index, score]) => [mask, { index, score }]));
  const [height, width] = (labels || masks).shape;
  const factor = Math.max(1, Math.ceil(CANVAS / Math.max(width, height)));
  const lastMask = masks ? masks.values.reduce((most, mask) => Math.max(most, mask), 0) : -1;
  const errors = truth && labels.values.map((index, at) => (truth.values[at] >= noLabel() ? 2 : index === truth.values[at] ? 0 : 1));
  return { labels: labels?.values, truth: truth?.values, errors, masks: masks?.values, lastMask, differences, rows, height, width, factor };
}

async function unpack(packed) {
  if (!packed) return null;
  const bytes = Uint8Array.from(atob(packed.data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return { shape: packed.shape, values: packed.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer) };
}

// ---- Statistics, problems, facts.

function bar(text, share, colour) {
  const fill = make("i");
  fill.style.width = `${100 * share}%`;
  if (colour) fill.style.background = colour;
  return make("td", {}, make("span", { className: "value" }, text), make("span", { className: "track" }, fill));
}

function showStatistics() {
  const first = 8;
  const largest = Math.max(...data.statistics.map((row) => row.share), 1e-9);
  const rows = data.statistics.map((row, place) => {
    const { name, colour } = data.classes[row.index];
    const button = make("button", { type: "button", className: "name", title: `Only images with ${name}` }, swatch(colour), make("span", {}, name));
    button.addEventListener("click", () => choose(state.only === row.index ? -1 : row.index));
    button.dataset.index = row.index;
    const line = make("tr", { className: row.images ? "" : "absent", hidden: place >= first && data.statistics.length > first + 2 },
      make("th", { scope: "row" }, button), bar(percent(row.share), row.share / largest, colour),
      bar(row.images.toLocaleString("en"), row.images / data.images.length), bar(percent(row.score), row.score || 0));
    return line;
  });
  $("statistics").replaceChildren(...rows);
  const more = $("more-classes");
  more.hidden = !rows.some((row) => row.hidden);
  more.textContent = `Show all ${rows.length}`;
  more.onclick = () => { rows.forEach((row) => { row.hidden = false; }); more.hidden = true; };
}

const terms = (pairs) => pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);

function showHeader() {
  $("title").textContent = data.title;
  $("summary").textContent = [plural(data.images.length, "image"), ...data.summary].join("  ·  ");
  document.querySelector(".page").classList.toggle("unrated", data.images.every((row) => row.score === null));
  $("classes").hidden = $("only-field").hidden = $("chips-section").hidden = !data.classes.length;
  $("problems").hidden = !data.problems.length;
  $("problem-count").textContent = data.problems.length.toLocaleString("en");
  $("problem-list").replaceChildren(...terms(data.problems.map(({ id, reason }) => [id, reason])));
  $("facts").replaceChildren(...data.facts.map(([heading, pairs]) =>
    make("section", {}, make("h3", {}, heading), make("dl", {}, ...terms(pairs)))));
}

// ---- Gallery.

/** The classes to choose from, and what can be sorted by. */
function showChoices() {
  const present = data.statistics.filter((row) => row.images).map((row) => row.index);
  $("only").replaceChildren(make("option", { value: -1 }, "all classes"),
    ...present.map((index) => make("option", { value: index }, data.classes[index].name)));
  $("gallery").classList.toggle("few", data.images.length < 7);
  $("sort").querySelector("[value=unsure]").hidden = data.images.every((row) => row.score === null);
  $("sort").querySelector("[value=worst]").hidden = !data.images.some(isRated);
  $("sort-field").hidden = !data.classes.length;
}

function startGallery() {
  showChoices();
  if (data.images.some(isRated)) state.sort = "worst";
  $("only").addEventListener("change", (event) => choose(Number(event.target.value)));
  $("find").addEventListener("input", (event) => { state.query = event.target.value; showGallery(); });
  $("sort").addEventListener("change", (event) => { state.sort = event.target.value; showGallery(); });
  $("reset").addEventListener("click", () => { $("find").value = state.query = ""; choose(-1); });
  new IntersectionObserver(([entry]) => entry.isIntersecting && addCards(), { rootMargin: "900px" }).observe($("sentinel"));
}

/** Show only images with a class (-1: all of them), where it takes most of the image first. */
function choose(only) {
  state.only = only;
  state.sort = only >= 0 ? "share" : state.sort === "share" ? "name" : state.sort;
  showGallery();
}

const classIn = (row, index) => row.classes.find((one) => one[0] === index);
const shareOf = (row, index) => (classIn(row, index)?.[1] || 0) / (row.width * row.height);
const isRated = (row) => row.right != null; // its true labels are known
const scoreOf = (row) => (state.only < 0 ? row.score : classIn(row, state.only)?.[2] ?? null);

function showGallery() {
  const key = { name: () => 0, unsure: (row) => scoreOf(row) ?? 2, worst: (row) => row.right ?? 2, share: (row) => -shareOf(row, state.only) }[state.sort];
  const query = state.query.trim().toLowerCase();
  shown = byName.filter((number) => {
    const row = data.images[number];
    return row.id.toLowerCase().includes(query) && (state.only < 0 || classIn(row, state.only));
  });
  const keys = new Map(shown.map((number) => [number, key(data.images[number])]));
  shown.sort((a, b) => keys.get(a) - keys.get(b)); // stable: equal ones stay in the order of their names
  $("only").value = state.only;
  $("sort").value = state.sort;
  const share = $("sort").querySelector("[value=share]");
  share.disabled = state.only < 0;
  share.textContent = state.only < 0 ? "class share (choose a class)" : `share of ${data.classes[state.only].name}`;
  document.querySelectorAll("#statistics button").forEach((button) =>
    button.setAttribute("aria-pressed", Number(button.dataset.index) === state.only));
  $("count").textContent = shown.length < data.images.length
    ? `${shown.length.toLocaleString("en")} of ${data.images.length.toLocaleString("en")}` : data.images.length.toLocaleString("en");
  $("nothing").hidden = shown.length > 0;
  $("gallery").replaceChildren();
  made = 0;
  addCards();
}

function addCards() {
  $("gallery").append(...shown.slice(made, made + BATCH).map(card));
  made = Math.min(shown.length, made + BATCH);
  // The observer tells of changes only: after a short batch it may still be in sight.
  if (made < shown.length && $("sentinel").getBoundingClientRect().top < innerHeight + 900) requestAnimationFrame(addCards);
}

function card(number) {
  const row = data.images[number];
  const box = make("span", { className: "picture" });
  for (const [suffix, className] of [[row.pictures.includes(".thumb.jpg") ? ".thumb.jpg" : ".jpg", "photo"], [".png", "tint"]]) {
    const source = picture(number, suffix);
    if (source) box.append(make("img", { className, alt: "", loading: "lazy", decoding: "async", onerror: tellMissing, src: source }));
  }
  const strip = make("span", { className: "strip" }, ...row.classes.map(([index, pixels]) => {
    const part = make("i");
    part.style.cssText = `flex-grow:${pixels};background:${data.classes[index].colour}`;
    return part;
  }));
  const remarks = [row.remark, row.note && "no image", isRated(row) && `${percent(row.right)} right`, state.only >= 0 && `${percent(shareOf(row, state.only))} of it`,
    scoreOf(row) !== null ? `${percent(scoreOf(row))} sure` : state.only < 0 && row.masks > 0 && plural(row.masks, "mask")];
  const link = make("a", { href: address(number) }, box, strip,
    make("span", { className: "id", title: row.id }, row.id), make("span", { className: "quiet" }, remarks.filter(Boolean).join(" · ") || "\u00a0"));
  const item = make("li", { className: "card" }, link);
  item.style.setProperty("--aspect", Math.min(3, Math.max(0.6, row.width / row.height || 1)));
  return item;
}
