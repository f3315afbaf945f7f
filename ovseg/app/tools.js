// The tools beside the image: which one is used, the masks that are selected with their best names, doubtful names.

const TOOLS = { select: "s", brush: "b", erase: "e", point: "p" };
const HINTS = {
  select: "Click a mask; shift-click adds others. Enter types a name.",
  brush: "Choose a name, then paint.",
  erase: "Paint to take labels away.",
  point: "Click a point: the pixels that answer to it show. No names are needed.",
};
const tools = { tool: "select", selected: [], scores: null, doubts: [], answer: null, cut: 128, size: 12, cursor: null };
const marks = make("canvas", { id: "marks" });
marks.setAttribute("aria-hidden", "true");
const writable = () => !app.readOnly && detail.row && done(detail.row) && data.classes.length > 0;
const note = (text) => { $("tool-note").textContent = text || (writable() || tools.tool === "point" ? HINTS[tools.tool] : app.readOnly || ""); };

function startTools() {
  $("stack").append(marks);
  $("stack").tabIndex = 0;
  $("stack").setAttribute("aria-label", "The image. Arrows move a cross, Space clicks there");
  document.querySelectorAll("#tool-buttons button").forEach((button) => button.addEventListener("click", () => chooseTool(button.dataset.tool)));
  $("size").addEventListener("input", () => setSize(Number($("size").value)));
  $("cut").addEventListener("input", () => setCut(Number($("cut").value)));
  setSize(tools.size);
  showNames();
  chooseTool("select");
}

function chooseTool(tool) {
  tools.tool = tool;
  $("stack").dataset.tool = tool;
  document.querySelectorAll("#tool-buttons button").forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === tool));
  $("size-field").hidden = tool !== "brush" && tool !== "erase";
  if (tool !== "point") tools.answer = null;
  if (tool !== "select") select([]);
  showTools();
  note("");
  drawMarks();
}

function setSize(size) {
  tools.size = Math.min(100, Math.max(1, size));
  $("size").value = tools.size;
  $("size-value").textContent = `${tools.size}`;
}

function setCut(cut) {
  tools.cut = Math.min(255, Math.max(1, cut));
  $("cut").value = tools.cut;
  $("cut-value").textContent = `${Math.round(tools.cut / 2.55)} %`;
  drawMarks();
}

function showNames() {
  $("name-list").replaceChildren(...data.classes.map(({ name }) => make("option", { value: name })));
}

/** Buttons and fields as they fit the image, the tool and what is selected. */
function showTools() {
  if (!detail.row) return;
  const { row } = detail;
  $("tools").hidden = false;
  const can = writable();
  document.querySelectorAll("#tool-buttons button").forEach((button) => { button.disabled = button.dataset.tool !== "point" && !can; });
  $("cut-field").hidden = !tools.answer;
  $("name-form").hidden = !can || tools.tool === "erase";
  $("give").hidden = tools.tool === "brush";
  $("give").disabled = !(tools.tool === "point" ? tools.answer : tools.selected.length);
  $("undo").disabled = !can || !row.undo;
  $("redo").disabled = !can || !row.redo;
  $("own").disabled = !can || !row.corrected;
  $("review").disabled = !can;
  $("review").setAttribute("aria-pressed", Boolean(row.reviewed));
}

// ---- Masks that are selected, and what they may be.

function select(masks) {
  tools.selected = masks;
  const only = masks.length === 1 ? masks[0] : -1;
  $("selection").hidden = !masks.length;
  if (masks.length) {
    const pixels = maskPixels(masks);
    $("selection-heading").textContent = `${masks.length === 1 ? `Mask ${only}` : plural(masks.length, "mask")} · ${percent(pixels / detail.maps.masks.length)} of the image`;
  }
  showBest(only);
  showSmallMap(only);
  markDoubts();
  if (detail.row) showTools();
  note("");
  drawMarks();
}

function maskPixels(masks) {
  const chosen = new Set(masks);
  let count = 0;
  for (const mask of detail.maps.masks) if (chosen.has(mask)) count += 1;
  return count;
}

/** The best names of one mask, each a button that gives it. */
function showBest(mask) {
  const rows = mask < 0 ? [] : tools.scores?.best[mask] || (detail.maps.rows.has(mask) ? [[detail.maps.rows.get(mask).index, detail.maps.rows.get(mask).score]] : []);
  $("best").replaceChildren(...rows.filter(([index]) => index !== null).map(([index, score], place) => {
    const { name, colour } = data.classes[index];
    return make("li", {}, nameButton(name, colour, score, () => give(name), place === 1 ? "Key X" : ""));
  }));
  const reason = tools.scores ? tools.scores.note : "asking for its other names…";
  if (mask >= 0 && rows.length < 2 && reason) $("best").append(make("li", { className: "quiet" }, reason));
}

function nameButton(name, colour, score, action, title) {
  const button = make("button", { type: "button", className: "chip two", title }, swatch(colour), make("span", { className: "chip-name" }, name),
    make("span", { className: "number" }, score === null ? "" : percent(score)));
  button.addEventListener("click", action);
  return button;
}

function showSmallMap(mask) {
  const maps = detail.maps?.differences;
  $("map-figure").hidden = !maps || mask < 0 || mask >= maps.shape[0];
  if ($("map-figure").hidden) return;
  const [, height, width] = maps.shape;
  const canvas = Object.assign($("small-map"), { width, height });
  canvas.getContext("2d").putImageData(heat(maps.values.subarray(mask * width * height, (mask + 1) * width * height), width, height), 0, 0);
  canvas.setAttribute("aria-label", `Difference map of mask ${mask}`);
}

/** Values 0..255 as a picture in the ramp's colours; those under the cut are clear. */
function heat(values, width, height, cut = 0, alpha = 255) {
  const colours = Array.from({ length: 256 }, (_, value) => (value < cut ? 0 : pixel(...ramp(value / 255), alpha)));
  const picture = new ImageData(width, height);
  new Uint32Array(picture.data.buffer).forEach((_, at, out) => { out[at] = colours[values[at]]; });
  return picture;
}

async function loadScores(number) {
  Object.assign(tools, { scores: null, doubts: [] });
  showDoubts();
  if (!done(data.images[number]) || !data.classes.length) return;
  try {
    const scores = await get(`/api/scores?id=${encodeURIComponent(data.images[number].id)}`);
    if (detail.number !== number) return;
    Object.assign(tools, { scores, doubts: scores.doubts });
    showDoubts();
    if (tools.selected.length === 1) showBest(tools.selected[0]);
  } catch { /* the rest of the page works without */ }
}

/** Masks whose second name is near the first: both names and their scores. */
function showDoubts() {
  $("doubts").hidden = !tools.doubts.length;
  $("doubt-list").replaceChildren(...tools.doubts.map((mask) => {
    const [[first, score], [second, other]] = tools.scores.best[mask];
    const button = nameButton(`${data.classes[first].name}, or ${data.classes[second].name}?`, data.classes[first].colour, score, () => { chooseTool("select"); select([mask]); }, `Mask ${mask}: ${percent(score)} and ${percent(other)}`);
    button.lastChild.textContent = `${percent(score).replace(" %", "")}/${percent(other)}`;
    button.dataset.mask = mask;
    return make("li", {}, button);
  }));
  markDoubts();
}

function markDoubts() {
  document.querySelectorAll("#doubt-list button").forEach((button) => button.setAttribute("aria-current", tools.selected.includes(Number(button.dataset.mask))));
}

/** Select the next mask of these, by the keyboard. */
function selectNext(masks, by = 1) {
  if (!masks.length) return;
  chooseTool("select");
  const place = masks.indexOf(tools.selected[0]);
  select([masks[(place + by + masks.length + (place < 0 && by < 0 ? 1 : 0)) % masks.length]]);
}

function masksBySize() {
  const counts = new Map();
  for (const mask of detail.maps?.masks || []) counts.set(mask, (counts.get(mask) || 0) + 1);
  return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
}

// ---- What is drawn over the image: the selection, an answer to a point, a stroke.

function drawMarks() {
  const { maps, row } = detail;
  if (!row) return;
  const [width, height] = row.shown;
  const context = marks.getContext("2d");
  if (tools.answer) {
    resize(marks, tools.answer.width, tools.answer.height);
    context.putImageData(heat(tools.answer.values, marks.width, marks.height, tools.cut, 215), 0, 0);
    return;
  }
  const factor = maps?.factor || 1;
  resize(marks, width * factor, height * factor);
  context.clearRect(0, 0, marks.width, marks.height);
  if (maps?.masks && tools.selected.length) drawSelection(context, maps);
}

function drawSelection(context, { masks, width, height, factor }) {
  const chosen = new Set(tools.selected);
  const inside = (at) => chosen.has(masks[at]);
  const path = new Path2D();
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!inside(i)) continue;
      if (!x || !inside(i - 1)) { path.moveTo(x * factor, y * factor); path.lineTo(x * factor, (y + 1) * factor); }
      if (x === width - 1 || !inside(i + 1)) { path.moveTo((x + 1) * factor, y * factor); path.lineTo((x + 1) * factor, (y + 1) * factor); }
      if (!y || !inside(i - width)) { path.moveTo(x * factor, y * factor); path.lineTo((x + 1) * factor, y * factor); }
      if (y === height - 1 || !inside(i + width)) { path.moveTo(x * factor, (y + 1) * factor); path.lineTo((x + 1) * factor, (y + 1) * factor); }
    }
  }
  const unit = marks.width / marks.clientWidth;
  context.lineCap = "square";
  for (const [style, size] of [["rgb(0 0 0 / 70%)", 6], ["#ffd84d", 3.5]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: size * unit });
    context.stroke(path);
  }
}

async function showAnswer({ key, map }) {
  const { shape, values } = await unpack(map);
  tools.answer = { key, values, height: shape[0], width: shape[1] };
  setCut(dividingCut(values));
  showTools();
}

/** Otsu's threshold: the cut that parts the values into the two most different groups. */
function dividingCut(values) {
  const counts = new Float64Array(256);
  for (const value of values) counts[value] += 1;
  const total = counts.reduce((sum, count, value) => sum + count * value, 0);
  let below = 0, sum = 0, best = 128, most = -1;
  for (let cut = 1; cut < 256; cut++) {
    below += counts[cut - 1];
    sum += counts[cut - 1] * (cut - 1);
    const above = values.length - below;
    if (!below || !above) continue;
    const apart = below * above * (sum / below - (total - sum) / above) ** 2;
    if (apart > most) [most, best] = [apart, cut];
  }
  return best;
}
