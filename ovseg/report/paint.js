// Painting a view of the detail's maps: a canvas over the photo, whose opacity is a matter of style, and one for the
// outline under the pointer. Neither ever holds the photo, so a page from disk may read them.

const CANVAS = 1024; // small maps are drawn enlarged by a whole factor, up to some such size, so that outlines are fine
const RAMP = [[38, 12, 81], [46, 92, 140], [40, 160, 130], [180, 214, 60], [255, 240, 120]]; // from 0 to 1, as in report.css

const ERRORS = [["right", "#2f6fd0"], ["wrong", "#e0452b"], ["no true label", "#808080"]]; // by the values of `maps.errors`

const pixel = (red, green, blue, alpha = 255) => (alpha << 24 | blue << 16 | green << 8 | red) >>> 0; // little-endian RGBA
const channels = (css) => [1, 3, 5].map((at) => parseInt(css.slice(at, at + 2), 16));
const darker = (colour) => [0, 8, 16].reduce((sum, at) => sum | Math.round(0.35 * (colour >>> at & 255)) << at, colour & 0xff000000) >>> 0;

function ramp(share) {
  const at = Math.min(share, 0.9999) * (RAMP.length - 1);
  const low = Math.floor(at);
  return RAMP[low].map((value, channel) => Math.round(value + (at - low) * (RAMP[low + 1][channel] - value)));
}

/** The index map that the view shows, and the colour of each of its indices. */
function palette(maps) {
  const alpha = (index) => (state.hidden.has(index) ? 0 : detail.focused < 0 || detail.focused === index ? 255 : 50);
  if (state.view === "overlay") {
    return [maps.labels, data.classes.map(({ colour }, index) => pixel(...channels(colour), alpha(index)))];
  }
  if (state.view === "errors") return [maps.errors, ERRORS.map(([, colour]) => pixel(...channels(colour)))];
  return [maps.masks, Array.from({ length: maps.lastMask + 1 }, (_, mask) => {
    const { index, score } = maps.rows.get(mask) || {};
    const colour = state.view === "masks" ? channels(data.maskColours[mask % data.maskColours.length])
      : score == null ? [128, 128, 128] : ramp(score);
    return pixel(...colour, alpha(index ?? noLabel()));
  })];
}

function paint() {
  const { maps } = detail;
  showCaption();
  if (!maps || state.view === "original") return;
  if (state.view === "differences") return paintDifferences(maps.differences);
  const { width, height, factor } = maps;
  const [map, colours] = palette(maps);
  const edges = colours.map(darker);
  const picture = new ImageData(width * factor, height * factor);
  const out = new Uint32Array(picture.data.buffer);
  const last = colours.length - 1;
  for (let y = 0, at = 0; y < picture.height; y++) {
    const below = (y + 1) % factor === 0 && y + 1 < picture.height ? width : 0;
    for (let x = 0, i = Math.floor(y / factor) * width; x < picture.width; x++, at++) {
      const right = (x + 1) % factor === 0 ? 1 : 0;
      const edge = map[i] !== map[i + below] || (right && x + 1 < picture.width && map[i] !== map[i + 1]);
      out[at] = (edge ? edges : colours)[Math.min(map[i], last)];
      i += right;
    }
  }
  show(picture);
}

function paintDifferences({ shape: [count, height, width], values }) {
  const start = Math.min(detail.mask, count - 1) * width * height;
  const colours = Array.from({ length: 256 }, (_, value) => pixel(...ramp(value / 255)));
  const picture = new ImageData(width, height);
  new Uint32Array(picture.data.buffer).forEach((_, at, out) => { out[at] = colours[values[start + at]]; });
  show(picture);
}

function show(picture) {
  resize($("canvas"), picture.width, picture.height);
  $("canvas").getContext("2d").putImageData(picture, 0, 0);
  $("canvas").setAttribute("aria-label", `${VIEWS[state.view]} of ${detail.row.id}`);
}

function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}

/** Draw the border of the region under the pointer, white on dark, always as wide on the screen. */
function outline() {
  const canvas = $("outline");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (detail.hovered < 0) return;
  const { width, height, factor, masks, labels } = detail.maps;
  const map = masks || labels;
  resize(canvas, width * factor, height * factor);
  const path = new Path2D();
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const inside = map[i] === detail.hovered;
      if (x && inside !== (map[i - 1] === detail.hovered)) { path.moveTo(x * factor, y * factor); path.lineTo(x * factor, (y + 1) * factor); }
      if (y && inside !== (map[i - width] === detail.hovered)) { path.moveTo(x * factor, y * factor); path.lineTo((x + 1) * factor, y * factor); }
    }
  }
  const unit = canvas.width / canvas.clientWidth;
  context.lineCap = "square";
  for (const [style, size] of [["rgb(0 0 0 / 55%)", 4], ["white", 2]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: size * unit });
    context.stroke(path);
  }
}

function showCaption() {
  const scale = (from, to) => make("span", { className: "scale" }, from, make("span", { className: "ramp" }), to);
  $("caption").replaceChildren(...({
    errors: ERRORS.map(([name, colour]) => make("span", { className: "scale" }, swatch(colour), name)),
    confidence: ["Score of each mask’s class", scale("0 %", "100 %")],
    differences: [`Difference map behind mask ${detail.mask}; point at another mask`, scale("none", "strong")],
  }[state.view] || [data.classes.length ? "Point at the image to see what a pixel was taken for" : "Point at the image to see its masks"]));
}
