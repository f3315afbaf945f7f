// The page to work in begins.

source = SERVER;

/** What is beside the image is that of the one which was opened. */
function afterOpen(number) {
  const other = tools.number !== number;
  tools.number = number;
  if (other) Object.assign(tools, { selected: [], answer: null });
  if (other) $("selection").hidden = true;
  showTools();
  if (other) note("");
  if (document.activeElement === $("close")) $("detail").focus(); // where letters are keys, and Enter closes nothing
  drawMarks();
  loadScores(number);
}

data.images.push(...data.later.map(([id, now]) => ({ ...app.empty, id, state: now, remark: app.remarks[now] || "" })));
$("detail").tabIndex = -1;
takeImages();
startTheme();
showHeader();
showStatistics();
startGallery();
startDetail();
startTools();
startAsk();
startEdits();
setOpacity(state.opacity);
openers.push(afterOpen);
showGallery();
followAddress();
showState({ ...app });
$("out").hidden = !data.images.some(done);
loadRows().then(poll, tell);
