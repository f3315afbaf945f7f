// The detail view: one image, its views, class toggles, and what stands under the pointer. It is drawn by paint.js.

const VIEWS = { original: "Original", overlay: "Labels", masks: "Masks", confidence: "Scores", differences: "Differences", errors: "Errors" };
Object.assign(state, { view: "", hidden: new Set() }); // hidden: classes, kept from image to image
const detail = { number: -1, row: null, maps: null, hovered: -1, focused: -1, mask: 0 };

// ---- Opened and closed by the address, so that links and the browser's own buttons work.

const openers = []; // functions that are told which image was opened
const address = (number) => `#/${encodeURIComponent(data.images[number].id)}`;

function followAddress() {
  let id = "";
  try { id = decodeURIComponent(location.hash.slice(2)); } catch { /* not one of ours */ }
  const number = location.hash.startsWith("#/") ? numbers.get(id) ?? -1 : -1;
  if (number >= 0 && number !== detail.number) openDetail(number);
  else if (number < 0 && $("detail").open) $("detail").close();
}

function openDetail(number) {
  if (!$("detail").open) $("detail").showModal();
  const row = data.images[number];
  Object.assign(detail, { number, row, maps: null, hovered: -1, focused: -1, mask: 0 });
  const place = shown.indexOf(number);
  $("detail-title").textContent = row.id;
  $("position").textContent = place < 0 ? "" : `${place + 1} / ${shown.length}`;
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === shown.length - 1;
  const source = picture(number, ".jpg");
  $("photo").hidden = !source;
  if (source) $("photo").src = source;
  else $("photo").removeAttribute("src");
  $("photo").alt = `The image ${row.id}`;
  $("stack").style.setProperty("--aspect", row.width / row.height);
  resize($("canvas"), 1, 1); // empty until its maps are here
  unpoint();
  showViews();
  showChips();
  showAbout();
  openers.forEach((tell) => tell(number));
  loadMaps(number).then((maps) => {
    if (detail.number !== number) return; // another one was opened meanwhile
    detail.maps = maps;
    paint();
    const following = shown[place + 1];
    if (following !== undefined) loadMaps(following).catch(() => {});
  }, (error) => { if (detail.number === number) $("caption").textContent = error.message; });
}

function step(by) {
  const number = shown[shown.indexOf(detail.number) + by];
  if (!shown.includes(detail.number) || number === undefined) return;
  openDetail(number); // at once, for the address tells of its change only later
  location.replace(address(number));
}

function afterClose() {
  if (location.hash.startsWith("#/") && location.hash.length > 2) location.hash = "/";
  const place = shown.indexOf(detail.number);
  while (place >= made && made < shown.length) addCards();
  $("gallery").children[place]?.firstChild.focus();
  detail.number = -1;
}

const available = (row) => Object.keys(VIEWS).filter((view) => ({
  original: true, overlay: data.classes.length > 0, masks: row.masks > 0, confidence: row.rated, differences: row.differences > 0, errors: isRated(row),
})[view]);

function showViews() {
  const all = Object.keys(VIEWS).filter((view) => data.images.some((row) => available(row).includes(view)));
  const here = available(detail.row);
  if (!here.includes(state.view)) state.view = ["errors", "overlay", "masks", "original"].find((view) => here.includes(view));
  $("views").replaceChildren(...all.map((view, place) => {
    const button = make("button", { type: "button", disabled: !here.includes(view), title: `Key ${place + 1}` }, VIEWS[view]);
    button.dataset.view = view;
    button.addEventListener("click", () => chooseView(view));
    return button;
  }));
  $("last-view").textContent = all.length;
  chooseView(state.view);
}

function chooseView(view) {
  state.view = view;
  document.querySelectorAll("#views button").forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === view));
  $("stack").dataset.view = view;
  paint();
}

function showChips() {
  const chips = detail.row.classes.map(([index, pixels, score]) => {
    const { name, colour } = data.classes[index];
    const button = make("button", { type: "button", className: "chip" }, swatch(colour), make("span", { className: "chip-name" }, name),
      make("span", { className: "number" }, percent(pixels / (detail.row.width * detail.row.height))),
      make("span", { className: "number quiet" }, score === null ? "" : percent(score)));
    button.title = score === null ? "Show or hide" : `Show or hide; mean score ${percent(score)}`;
    button.dataset.index = index;
    button.addEventListener("click", () => { if (!state.hidden.delete(index)) state.hidden.add(index); markChips(); paint(); });
    for (const [event, focused] of [["pointerenter", index], ["pointerleave", -1], ["focus", index], ["blur", -1]]) {
      button.addEventListener(event, () => {
        if (event === "focus" && !button.matches(":focus-visible")) return; // a click needs no more than the pointer
        detail.focused = focused;
        paint();
      });
    }
    return make("li", {}, button);
  });
  $("chips").replaceChildren(...chips);
  markChips();
}

function markChips() {
  document.querySelectorAll(".chip").forEach((chip) => chip.setAttribute("aria-pressed", !state.hidden.has(Number(chip.dataset.index))));
  $("show-all").hidden = !detail.row.classes.some(([index]) => state.hidden.has(index));
}

function showAbout() {
  const { row } = detail;
  const smaller = row.shown[0] < row.width ? `, shown as ${row.shown[0]} × ${row.shown[1]}` : "";
  const pairs = [["Size", `${row.width} × ${row.height}${smaller}`], ["Right", isRated(row) ? `${percent(row.right)} of labelled pixels` : "–"],
    ["mIoU", percent(row.mIoU ?? null)], ["Mean score", percent(row.score)], ["Masks", row.masks || "–"],
    ["Time", row.seconds ? `${row.seconds.toPrecision(3)} s` : "–"], ["File", row.file]];
  $("about").replaceChildren(...terms(pairs.filter(([, value]) => value !== "–")));
  if (row.note) $("about").prepend(make("dt", {}, "Note"), make("dd", { className: "warning" }, row.note));
}

// ---- The pointer over the image.

function describe(position) {
  const { maps, row } = detail;
  const mask = maps.masks?.[position];
  const lines = [];
  if (maps.labels) {
    const index = Math.min(maps.labels[position], noLabel());
    const own = mask === undefined ? null : maps.rows.get(mask);
    const score = own && (own.index ?? noLabel()) === index ? own.score : classIn(row, index)?.[2] ?? null;
    lines.push(make("strong", {}, swatch(data.classes[index].colour), data.classes[index].name));
    if (score !== null && score !== undefined) lines.push(make("span", {}, own ? `score ${percent(score)}` : `mean score ${percent(score)}`));
  }
  if (maps.errors?.[position] === 1) {
    const { name, colour } = data.classes[maps.truth[position]];
    lines.push(make("strong", {}, "truly", swatch(colour), name));
  }
  if (mask !== undefined) lines.push(make("span", {}, `mask ${mask}`));
  return lines;
}

function point(event) {
  const { maps } = detail;
  if (!maps) return;
  const box = $("stack").getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * maps.width);
  const y = Math.floor((event.clientY - box.top) / box.height * maps.height);
  if (x < 0 || y < 0 || x >= maps.width || y >= maps.height) return;
  const position = y * maps.width + x;
  const hover = $("hover");
  hover.replaceChildren(...describe(position));
  hover.hidden = false;
  const left = event.clientX + 18 + hover.offsetWidth > innerWidth ? event.clientX - 18 - hover.offsetWidth : event.clientX + 18;
  const top = Math.min(event.clientY + 18, innerHeight - hover.offsetHeight - 8);
  hover.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
  const region = (maps.masks || maps.labels)[position];
  if (region === detail.hovered) return;
  detail.hovered = region;
  if (maps.masks) detail.mask = region;
  if (state.view === "differences") paint();
  outline();
}

function unpoint() {
  $("hover").hidden = true;
  detail.hovered = -1;
  outline();
}

// ---- Keys and controls.

function setOpacity(value) {
  state.opacity = Number(value);
  document.documentElement.style.setProperty("--opacity", state.opacity / 100);
  document.querySelectorAll(".opacity").forEach((slider) => { slider.value = state.opacity; });
  $("opacity-value").textContent = `${state.opacity} %`;
}

const keyTakers = []; // functions that get a key first, and return whether they took it

function onKey(event) {
  if (keyTakers.some((take) => take(event))) return event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!$("detail").open) {
    const item = by && event.target.closest?.(".card");
    (by > 0 ? item?.nextElementSibling : item?.previousElementSibling)?.firstChild.focus();
  } else if (by) {
    step(by);
    event.preventDefault();
  } else {
    document.querySelectorAll("#views button")[Number(event.key) - 1]?.click();
  }
}

function startDetail() {
  document.querySelectorAll(".opacity").forEach((slider) => {
    slider.addEventListener("input", () => setOpacity(slider.value));
    slider.addEventListener("pointerup", () => slider.blur()); // so that the arrow keys lead to other images again
  });
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("close", afterClose);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("show-all").addEventListener("click", () => { state.hidden.clear(); markChips(); paint(); });
  for (const type of ["pointermove", "pointerdown"]) $("stack").addEventListener(type, point);
  $("stack").addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") unpoint(); });
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", followAddress);
}
