// Asking: images are dropped or chosen, names typed; and what is taken away: exports, and the command.

const RULES = { threshold: ["Less probable than", "0.15"], own: ["Words, with commas", "sky, wall"] };
let lastProgress = "";
let typing = 0;

function startAsk() {
  $("by").append(...Object.entries(app.sources).map(([name, about]) => make("option", { value: name, title: about }, name)));
  $("by").value = app.by in app.sources ? app.by : "emerdiff";
  $("mask-count").value = app.masks;
  $("speed").value = app.speed;
  $("names").value = app.asked.classes.join("\n");
  $("preset").textContent = `asks ${app.preset}`;
  $("preset").title = app.warning;
  const rule = app.asked.background;
  $("rule").value = ["words", "none"].includes(rule) ? rule : rule.startsWith("threshold") ? "threshold" : "own";
  showRule();
  if (RULES[$("rule").value]) $("rule-value").value = rule.replace(/^threshold\s*=\s*/, "");
  $("rule").addEventListener("change", showRule);
  $("ask-form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("names").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });
  for (const type of ["focus", "input"]) $("names").addEventListener(type, () => { clearTimeout(typing); typing = setTimeout(prepare, type === "focus" ? 0 : 400); });
  $("cancel").addEventListener("click", () => post("/api/cancel", {}).catch(tell));
  startUploads();
  $("format").append(...app.formats.map((name) => make("option", { value: name }, name)));
  $("format").value = "coco";
  $("export-form").addEventListener("submit", (event) => { event.preventDefault(); exportRun(); });
  $("show-command").addEventListener("click", showCommand);
}

function showRule() {
  const more = RULES[$("rule").value];
  $("rule-field").hidden = !more;
  if (more) { [$("rule-name").textContent, $("rule-value").value] = more; }
}

function background() {
  const rule = $("rule").value;
  const value = $("rule-value").value.trim();
  return rule === "threshold" ? `threshold=${value}` : rule === "own" ? value : rule;
}

/** Let the models read the names while they are typed: asking is quicker then. A mistake is told when it is asked. */
function prepare() {
  if (!app.readOnly) post("/api/words", { classes: $("names").value, background: background() }).catch(() => {});
}

async function ask() {
  tell();
  clearTimeout(typing);
  const body = { classes: $("names").value, background: background(), by: $("by").value, speed: $("speed").value, masks: Number($("mask-count").value) };
  if (detail.number >= 0) body.first = data.images[detail.number].id;
  try {
    await post("/api/ask", body);
    showProgress({ state: "loading", text: "loading the models", done: 0, total: 0, notes: [] });
    poll();
  } catch (error) { tell(error); }
}

function showProgress({ state: now, text, done: count, total, share, left, image, notes }) {
  const busy = ["loading", "working"].includes(now);
  $("progress").hidden = now === "idle";
  $("progress").classList.toggle("failed", now === "failed");
  $("cancel").hidden = !busy;
  $("start").disabled = busy || Boolean(app.readOnly);
  const percentDone = now === "done" ? 100 : Math.round(100 * (share || 0));
  $("progress-track").setAttribute("aria-valuenow", percentDone);
  $("progress-track").firstElementChild.style.width = `${percentDone}%`;
  const parts = now === "working" ? [`${count} of ${total}`, image, left && `${left} left`] : [{ done: "done", failed: "" }[now], text];
  const line = [...parts, ...notes].filter(Boolean).join(" · ");
  if (line !== lastProgress) $("progress-text").textContent = lastProgress = line;
}

// ---- Images that are dropped or chosen.

function startUploads() {
  const drop = $("drop");
  $("choose-files").addEventListener("click", () => $("files").click());
  $("choose-folder").addEventListener("click", () => $("folder").click());
  for (const input of [$("files"), $("folder")]) {
    input.addEventListener("change", () => { upload([...input.files].map((file) => [file.webkitRelativePath || file.name, file])); input.value = ""; });
  }
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
    });
  }
  document.addEventListener("drop", async (event) => upload(await dropped(event.dataTransfer)));
}

/** The files of a drop, [path, file], those in folders as well. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => [file.name, file]);
  const found = [];
  const read = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  async function walk(entry, path) {
    if (entry.isFile) found.push([path + entry.name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    else for (let reader = entry.createReader(), part; (part = await read(reader)).length; ) for (const one of part) await walk(one, `${path}${entry.name}/`);
  }
  for (const entry of entries) await walk(entry, "");
  return found;
}

async function upload(files) {
  tell();
  const images = files.filter(([path, file]) => file.type.startsWith("image/") && !path.split("/").some((part) => part.startsWith(".")));
  const problems = files.length > images.length ? [`${plural(files.length - images.length, "file")} left out, as no image`] : [];
  let count = 0;
  const take = async () => {
    for (let next; (next = images.shift()); ) {
      const [path, file] = next;
      try {
        const { row } = await request(`/api/upload?name=${encodeURIComponent(path)}`, { method: "POST", body: file });
        takeRow(row);
        count += 1;
      } catch (error) { problems.push(error.message); }
      $("uploading").textContent = `${plural(count, "image")} here${images.length ? `, ${images.length} to come` : ""}`;
    }
  };
  await Promise.all([take(), take(), take()]);
  takeImages();
  showHeader();
  showChoices();
  showGallery();
  if (problems.length) tell(new Error(problems.slice(0, 5).join(" · ") + (problems.length > 5 ? ` · and ${problems.length - 5} more` : "")));
}

// ---- Out.

async function exportRun() {
  const unsure = $("unsure").value === "" ? null : Number($("unsure").value);
  const body = { format: $("format").value, unsure, components: $("components").checked, images: $("copies").checked };
  $("exported").textContent = "exporting…";
  try {
    const { folder, lines, size } = await post("/api/export", body);
    const link = make("a", { href: `/api/download?format=${encodeURIComponent(body.format)}`, download: "" }, `download ${body.format}.zip (${(size / 1e6).toFixed(1)} MB)`);
    $("exported").replaceChildren(link, ` · also in ${folder}`, ...lines.slice(0, -1).flatMap((line) => [make("br"), line]));
  } catch (error) { $("exported").textContent = error.message; }
}

async function showCommand() {
  const open = $("commands").hidden;
  try {
    if (open) { const { command, python } = await get("/api/command"); $("command").textContent = command; $("python").textContent = python; }
  } catch (error) { $("exported").textContent = error.message; return; }
  $("commands").hidden = !open;
  $("show-command").setAttribute("aria-expanded", open);
}
