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
  drawMarks();
  loadScores(number);
}

data.images.push(...data.later.map(([id, now]) => ({ ...app.empty, id, state: now, remark: app.remarks[now] || "" })));
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
