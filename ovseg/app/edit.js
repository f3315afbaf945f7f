// Corrections: what the hand does becomes an edit, which the server carries out and saves; they go one after the other.

let lastEdit = Promise.resolve();
let stroke = null; // points of the one that is drawn, in pixels of the image
const number255 = (value) => Math.round(value * 100) / 100;

function startEdits() {
  $("name-form").addEventListener("submit", (event) => { event.preventDefault(); give($("name").value); });
  $("undo").addEventListener("click", () => edit({ kind: "undo" }));
  $("redo").addEventListener("click", () => edit({ kind: "redo" }));
  $("own").addEventListener("click", () => edit({ kind: "own" }));
  $("review").addEventListener("click", () => edit({ kind: detail.row.reviewed ? "unreview" : "review" }));
  const stack = $("stack");
  stack.addEventListener("pointerdown", (event) => { if (event.button === 0) press(event); });
  stack.addEventListener("pointermove", (event) => { if (stroke) extend(event); });
  for (const type of ["pointerup", "pointercancel"]) stack.addEventListener(type, () => { if (stroke) finishStroke(); });
  stack.addEventListener("focus", () => { if (stack.matches(":focus-visible")) moveCursor(0, 0); });
  stack.addEventListener("blur", hideCursor);
  keyTakers.push(takeKey);
}

/** Where an event is, in pixels of the image. */
function place(event) {
  const box = $("stack").getBoundingClientRect();
  const { width, height } = detail.row;
  const within = (value, most) => Math.min(most - 0.01, Math.max(0, value * most));
  return [within((event.clientX - box.left) / box.width, width), within((event.clientY - box.top) / box.height, height)];
}

function press(event) {
  if (!detail.row) return;
  hideCursor();
  if (tools.tool === "brush" || tools.tool === "erase") {
    if (!beginStroke(place(event))) return;
    $("stack").setPointerCapture(event.pointerId);
    event.preventDefault();
  } else click(place(event), event.shiftKey);
}

/** A click of the tool at [x, y], in pixels of the image. */
function click([x, y], more) {
  if (tools.tool === "point") return askPoint(Math.floor(x), Math.floor(y));
  if (tools.tool !== "select") { if (beginStroke([x, y])) finishStroke(); return; }
  const { maps, row } = detail;
  if (!maps?.masks) return;
  const at = Math.floor(y / row.height * maps.height) * maps.width + Math.floor(x / row.width * maps.width);
  const mask = maps.masks[at];
  const there = tools.selected.includes(mask);
  select(!more ? [mask] : there ? tools.selected.filter((one) => one !== mask) : [...tools.selected, mask]);
}

// ---- Edits.

/** Send an edit of the open image; what it becomes is shown when it is saved. */
function edit(body) {
  const { number } = detail;
  const { id } = data.images[number];
  lastEdit = lastEdit.then(async () => {
    try {
      const { row, maps, legend } = await post("/api/edit", { id, ...body });
      tell();
      takeLegend(legend);
      takeRow(row);
      recent.delete(number);
      if (detail.number !== number) return;
      detail.row = data.images[number];
      recent.set(number, unpackMaps(maps));
      detail.maps = await recent.get(number);
      if (body.kind === "answer") tools.answer = null;
      showChips();
      showAbout();
      select(tools.selected);
      paint();
      note(row.reviewed ? "Reviewed." : "Saved.");
    } catch (error) {
      if (detail.number === number) drawMarks();
      tell(error);
    }
  });
  return lastEdit;
}

const target = (name) => (name === data.classes[noLabel()].name && !data.classes.slice(0, -1).some((one) => one.name === name) ? null : name);

/** Give the selected masks, or the answer to a point, a name. */
function give(name) {
  name = name.trim();
  $("name").value = name;
  if (!name) { $("name").focus(); return note("Type a name first."); }
  if (tools.tool === "point" && tools.answer) return edit({ kind: "answer", key: tools.answer.key, cut: tools.cut, to: target(name) });
  if (tools.selected.length) return edit({ kind: "masks", masks: tools.selected, to: target(name) });
}

async function askPoint(x, y) {
  const { number } = detail;
  note("asking the pixels…");
  try {
    const answer = await post("/api/point", { id: data.images[number].id, x, y });
    if (detail.number !== number || tools.tool !== "point") return;
    await showAnswer(answer);
    note(`Cell ${answer.cell.join(", ")} of ${answer.grid.join(" × ")}. Set the cut, then give it a name.`);
  } catch (error) { tell(error); }
}

// ---- The brush.

function beginStroke(point) {
  if (!writable()) return false;
  if (tools.tool === "brush" && !$("name").value.trim()) { $("name").focus(); note("Choose a name to paint with."); return false; }
  stroke = [point];
  drawStroke();
  return true;
}

function extend(event) {
  const [x, y] = place(event);
  const [lastX, lastY] = stroke.at(-1);
  if (Math.hypot(x - lastX, y - lastY) * marks.clientWidth / detail.row.width < 1.5 || stroke.length >= 20000) return;
  stroke.push([x, y]);
  drawStroke();
}

/** The brush's radius in pixels of the image: its size is in hundredths of a quarter of the shorter side. */
const radius = () => Math.max(0.5, tools.size / 400 * Math.min(detail.row.width, detail.row.height));

function drawStroke() {
  const context = marks.getContext("2d");
  const scale = marks.width / detail.row.width;
  const chosen = data.classes.find((one) => one.name === $("name").value.trim());
  const colour = tools.tool === "erase" ? "#ffffff" : chosen?.colour || "#ffd84d";
  Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: 2 * radius() * scale, lineCap: "round", lineJoin: "round", globalAlpha: 1 });
  context.beginPath();
  stroke.slice(-2).forEach(([x, y], at) => (at ? context.lineTo(x * scale, y * scale) : context.moveTo(x * scale, y * scale)));
  if (stroke.length === 1) { context.arc(stroke[0][0] * scale, stroke[0][1] * scale, radius() * scale, 0, 7); context.fill(); } else context.stroke();
}

function finishStroke() {
  const points = stroke.map((point) => point.map(number255));
  stroke = null;
  const background = data.classes[0]?.name === app.background ? app.background : null;
  edit({ kind: "stroke", points, radius: number255(radius()), to: tools.tool === "erase" ? background : target($("name").value.trim()) });
}

// ---- The keyboard: a cross in the picture, and a letter for every tool.

const cross = make("span", { className: "cross", hidden: true });

function moveCursor(x, y) {
  if (!cross.parentNode) $("stack").append(cross);
  const [left, top] = tools.cursor || [0.5, 0.5];
  const within = (value) => Math.min(0.999, Math.max(0, value));
  tools.cursor = [within(left + x), within(top + y)];
  cross.hidden = false;
  cross.style.left = `${100 * tools.cursor[0]}%`;
  cross.style.top = `${100 * tools.cursor[1]}%`;
}

function hideCursor() { cross.hidden = true; }

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  m: () => selectNext(masksBySize()),
  M: () => selectNext(masksBySize(), -1),
  d: () => selectNext(tools.doubts),
  x: () => { const second = tools.selected.length === 1 && tools.scores?.best[tools.selected[0]]?.[1]; if (second) give(data.classes[second[0]].name); },
  f: () => { $("stack").focus({ focusVisible: true }); moveCursor(0, 0); },
  u: () => edit({ kind: "undo" }),
  "[": () => (tools.answer ? setCut(tools.cut - 8) : setSize(tools.size - 3)),
  "]": () => (tools.answer ? setCut(tools.cut + 8) : setSize(tools.size + 3)),
  r: async () => { const on = detail.row.reviewed; await edit({ kind: on ? "unreview" : "review" }); if (!on && detail.row.reviewed) step(1); },
};
const CHANGES = new Set(["x", "u", "r"]);

/** Take a key in the detail view; whether it was one of ours. */
function takeKey(event) {
  if (!$("detail").open || !detail.row) return false;
  const typing = event.target.matches("input[type=text], input[type=number], input[type=search], select, textarea");
  if ((event.ctrlKey || event.metaKey) && !typing && event.key.toLowerCase() === "z") return Boolean(edit({ kind: event.shiftKey ? "redo" : "undo" }));
  if ((event.ctrlKey || event.metaKey) && !typing && event.key.toLowerCase() === "y") return Boolean(edit({ kind: "redo" }));
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  if (typing) {
    if (event.key !== "Escape") return false;
    $("stack").focus();
    return true; // the dialog stays open
  }
  if (event.target === $("stack")) {
    const arrow = ARROWS[event.key];
    const far = event.shiftKey ? 1 / detail.row.width : 1 / 40;
    if (arrow) { moveCursor(arrow[0] * far, arrow[1] * far); return true; }
    if (event.key === " ") { const [x, y] = tools.cursor || [0.5, 0.5]; moveCursor(0, 0); click([x * detail.row.width, y * detail.row.height], event.shiftKey); return true; }
  }
  const tool = Object.keys(TOOLS).find((one) => TOOLS[one] === event.key);
  if (tool) { if (tool === "point" || writable()) chooseTool(tool); return true; }
  if (event.key === "Enter" && !event.target.matches("button, summary, a") && !$("name-form").hidden) { $("name").focus(); $("name").select(); return true; }
  if (!KEYS[event.key] || (CHANGES.has(event.key) && !writable())) return false;
  KEYS[event.key]();
  return true;
}
